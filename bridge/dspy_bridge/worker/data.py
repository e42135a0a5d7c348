"""Rows from files, results to files: CSV, JSON, JSON Lines and Parquet, in folders the operator allows.

A session's own working and scratch folders are always allowed. Values of a CSV file are text; a cell that
is JSON of a number, truth value, array or object is taken as such.
"""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.session_commands import DataFile
from dspy_bridge.worker.types import bad
from dspy_bridge.worker.values import to_json

Rows = list[dict[str, Any]]
_MAX_BYTES: Final = 1 << 30


class DataFolder:
    """Reads and writes for one session. ``allowed``: folders beside its own."""

    def __init__(self, allowed: Sequence[str], scratch: str) -> None:
        self._allowed = allowed
        self._scratch = scratch

    def rows(self, given: Rows | DataFile, where: str) -> Rows:
        """The rows themselves, or those of the file. Raises ``invalid_args``, ``unsupported``."""
        if not isinstance(given, DataFile):
            return given
        path = self._check(given.file, where)
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise bad(f"{where}.file", f"{given.file} is larger than 1 GiB")
            rows = _read(path)
        except OSError as exc:
            raise bad(f"{where}.file", f"{given.file}: {exc.strerror}") from None
        except ValueError as exc:
            raise bad(f"{where}.file", f"{given.file}: {exc}") from None
        return rows[given.first : None if given.count is None else given.first + given.count]

    def saver(self, given: str | None, where: str) -> Callable[[Mapping[str, Any]], None]:
        """What writes the ``results`` of a result to that file, if one is given: a line each, or a JSON array.

        That it can be written is found out now, before hours of work are done for it. Raises as :meth:`rows` does;
        if writing fails nevertheless in the end, the error's details hold the result.
        """
        if given is None:
            return lambda _result: None
        path = self._check(given, where)
        try:
            _try_to_write(path)
        except OSError as exc:
            raise bad(where, f"{given}: {exc.strerror}") from None

        def save(result: Mapping[str, Any]) -> None:
            try:
                path.write_bytes(_WRITERS[path.suffix](result["results"]))
            except Exception as exc:  # noqa: BLE001 - whatever it is, the result is not lost to it
                error = bad(where, f"{given}: {exc.strerror if isinstance(exc, OSError) else exc}")
                error.details["result"] = result
                raise error from None

        return save

    def _check(self, given: str, where: str) -> Path:
        if "\0" in given:
            raise bad(where, "a file's name holds no null characters")
        path = Path(given).resolve()
        own = [os.getcwd(), self._scratch] if self._scratch else [os.getcwd()]
        if path.suffix not in _WRITERS:
            raise bad(where, f"{given} is none of {', '.join(_WRITERS)}")
        if not any(path.is_relative_to(Path(folder).resolve()) for folder in (*own, *self._allowed)):
            message = f"{given} lies outside the folders sessions may use; the operator adds some by --allow-data"
            raise BridgeError("unsupported", message)
        return path


def _try_to_write(path: Path) -> None:
    """Leaves everything as it was. Raises ``OSError``, ``unsupported``."""
    if path.suffix == ".parquet":
        _parquet(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no file")
    try:
        path.open("xb").close()
    except FileExistsError:
        path.open("ab").close()
    else:
        path.unlink()


def _read(path: Path) -> Rows:
    """Raises ``ValueError`` for what holds no rows."""
    if path.suffix == ".parquet":
        rows: Rows = _parquet(path).read_table(path).to_pylist()
        return [to_json(row, "row") for row in rows]
    content = path.read_bytes()
    if path.suffix == ".csv":
        return [
            {name: _cell(value) for name, value in row.items() if name is not None}
            for row in csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        ]
    if path.suffix == ".jsonl":
        rows = [jsonlib.loads(line) for line in content.splitlines() if line.strip()]
    else:
        rows = jsonlib.loads(content)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("holds something else than objects")
    return rows


def _parquet(path: Path) -> Any:
    """Raises ``unsupported``."""
    try:
        from pyarrow import parquet
    except ImportError:
        message = "Parquet needs pyarrow: install it where the daemon runs (the extra dspy-bridge[parquet] has it)"
        raise BridgeError("unsupported", message, details={"file": str(path)}) from None
    return parquet


def _cell(text: str | None) -> Any:
    if text is None or text[:1] not in '-0123456789tf[{"':
        return text
    try:
        return jsonlib.loads(text)
    except jsonlib.JSONDecodeError:
        return text


def _columns(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The results as a table with every name that any of them has; None where one has it not."""
    rows = [_flatten(one) for one in results]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _as_csv(results: Sequence[Mapping[str, Any]]) -> bytes:
    columns = _columns(results)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue().encode()


def _flatten(result: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in result.items():
        if name == "outputs":
            row |= {f"outputs.{field}": _scalar(one) for field, one in value.items()}
        elif name == "error":
            row["error"] = value["code"]
        else:
            row[name] = _scalar(value)
    return row


def _scalar(value: Any) -> Any:
    return value if value is None or isinstance(value, (str, int, float)) else _as_text(value)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else jsonlib.dumps(value).decode()


def _as_parquet(results: Sequence[Mapping[str, Any]]) -> bytes:
    parquet = _parquet(Path())
    import pyarrow

    def column(values: list[Any]) -> Any:
        try:
            return pyarrow.array(values)
        except pyarrow.ArrowException:  # of several types
            return pyarrow.array([None if one is None else _as_text(one) for one in values])

    out = io.BytesIO()
    table = {name: column(values) for name, values in _columns(results).items()}
    parquet.write_table(pyarrow.table(table), out)
    return out.getvalue()


_WRITERS: Final[Mapping[str, Callable[[Sequence[Mapping[str, Any]]], bytes]]] = {
    ".csv": _as_csv,
    ".json": lambda results: jsonlib.dumps(list(results), option=jsonlib.OPT_INDENT_2),
    ".parquet": _as_parquet,
    ".jsonl": lambda results: b"".join(jsonlib.dumps(dict(one)) + b"\n" for one in results),
}
