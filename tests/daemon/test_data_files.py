"""Rows from files and results to files, in folders that are allowed and no others."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from dspy_bridge.client import Client, CommandFailed

Frame = dict[str, Any]
ROWS = [
    {"question": "one, two", "answer": "yes"},
    {"question": 'say "no"', "answer": "no"},
    {"question": "ü", "answer": "x"},
]


@pytest.fixture
def qa(daemon: Client, session: str, folder: Path) -> str:
    lm = {"model": "scripted", "answers": {"one": {"answer": "yes"}, "say": {"answer": "no"}, "ü": {"answer": "?"}}}
    daemon.call("start_session", {"cwd": str(folder), "lm": lm}, session=session)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    return session


def write(folder: Path, name: str) -> None:
    path = folder / name
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_text(json.dumps(ROWS))


def read_table(path: Path) -> list[Frame]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet"])
def test_examples_come_from_files_and_results_go_to_them(daemon: Client, qa: str, folder: Path, name: str) -> None:
    write(folder, name)
    out = f"scores{Path(name).suffix}"
    asked = {"program_id": "qa", "examples": {"file": name}, "metric": "exact_match", "save_as": out}
    found = daemon.call("evaluate_program", asked, session=qa)
    assert found["score"] == 66.67
    if name.endswith((".csv", ".parquet")):
        rows = read_table(folder / out)
        assert [float(row["score"]) for row in rows] == [1.0, 1.0, 0.0]
        assert rows[0]["outputs.answer"] == "yes"
    else:
        text = (folder / out).read_text()
        rows = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
        assert rows == found["results"]
    part = {"program_id": "qa", "examples": {"file": name, "first": 1, "count": 1}, "metric": "exact_match"}
    assert daemon.call("evaluate_program", part, session=qa)["score"] == 100.0


def test_a_batch_and_a_compilation_read_files_too(daemon: Client, qa: str, folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"question": "one"}\n{"question": "say"}\n')
    asked = {"program_id": "qa", "inputs": {"file": "in.jsonl"}, "save_as": "out.jsonl"}
    assert daemon.call("execute_batch", asked, session=qa)["succeeded"] == 2
    assert len((folder / "out.jsonl").read_text().splitlines()) == 2
    write(folder, "train.csv")
    args = {"program_id": "qa", "optimizer": "labeled_few_shot", "trainset": {"file": "train.csv"}}
    assert daemon.call("compile_program", args, session=qa)["status"] == "compiled"


@pytest.mark.parametrize(
    ("file", "code", "says"),
    [
        ("missing.csv", "invalid_args", "No such file"),
        ("rows.txt", "invalid_args", "is none of .csv"),
        ("/etc/rows.json", "unsupported", "--allow-data"),
        ("../rows.json", "unsupported", "--allow-data"),
        ("link.json", "unsupported", "--allow-data"),
        ("broken.json", "invalid_args", "broken.json"),
        ("text.json", "invalid_args", "something else than objects"),
        ("", "invalid_args", "args.examples.file"),
    ],
)
def test_files_that_hold_no_rows_or_lie_elsewhere_are_refused(
    daemon: Client, qa: str, folder: Path, file: str, code: str, says: str
) -> None:
    (folder / "broken.json").write_text("[{")
    (folder / "text.json").write_text('["a", "b"]')
    (folder / "link.json").symlink_to("/etc/elsewhere.json")
    asked = {"program_id": "qa", "examples": {"file": file}, "metric": "f1"}
    with pytest.raises(CommandFailed) as failed:
        daemon.call("evaluate_program", asked, session=qa)
    assert failed.value.code == code, failed.value.error
    assert says in json.dumps(failed.value.error)


def test_the_operator_allows_further_folders(folder: Path) -> None:
    (folder / "data").mkdir()
    write(folder / "data", "rows.json")
    (folder / "home").mkdir()
    with Client.spawn(["--allow-data", str(folder / "data")]) as client:
        client.call("start_session", {"cwd": str(folder / "home"), "lm": {"model": "scripted"}}, session="default")
        client.call("create_program", {"id": "qa", "signature": "question -> answer"})
        asked = {"program_id": "qa", "inputs": {"file": str(folder / "data" / "rows.json")}, "lenient": True}
        assert client.call("execute_batch", asked)["succeeded"] == 3


def test_empty_examples_are_refused(daemon: Client, qa: str) -> None:
    with pytest.raises(CommandFailed, match="must not be empty"):
        daemon.call("evaluate_program", {"program_id": "qa", "examples": [], "metric": "f1"}, session=qa)


# -- what is saved ---------------------------------------------------------------------------------


def counting(daemon: Client, then: Callable[[], object] = lambda: None) -> list[Frame]:
    """Serve metrics of the host with 1, doing something first; what they were asked."""
    asked: list[Frame] = []

    def metric(frame: Frame) -> int:
        asked.append(frame)
        then()
        return 1

    daemon.on_call = metric
    return asked


EVALUATION = {"program_id": "qa", "examples": ROWS, "metric": {"host": "mine"}}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_has_the_columns_of_all_results_whichever_came_first(
    daemon: Client, qa: str, folder: Path, suffix: str
) -> None:
    inputs = [{"wrong": 1}, {"question": "one"}, {"question": "say"}]
    asked = {"program_id": "qa", "inputs": inputs, "skip": [2], "save_as": f"out{suffix}"}
    daemon.call("execute_batch", asked, session=qa)
    failed, done, skipped = read_table(folder / f"out{suffix}")
    assert failed.keys() >= {"index", "success", "error", "outputs.answer", "execution_time_ms", "skipped"}
    assert [failed["error"], done["outputs.answer"], bool(skipped["skipped"])] == ["invalid_args", "yes", True]
    nothing = None if suffix == ".parquet" else ""
    assert [failed["outputs.answer"], done["error"], skipped["error"]] == [nothing] * 3


@pytest.mark.parametrize(
    ("type_", "answers", "found"),
    [
        ("Union[int, str]", [1, "two"], ["1", "two"]),
        ("Optional[int]", [3, None], [3, None]),
        ("int", [2**63, 1], [f'{{"$int":"{2**63}"}}', "1"]),
        ("list[int]", [[1], []], ["[1]", "[]"]),
    ],
)
def test_a_column_of_parquet_takes_whatever_the_results_hold(
    daemon: Client, qa: str, folder: Path, type_: str, answers: list[Any], found: list[Any]
) -> None:
    lm = {"model": "scripted", "answers": [{"n": answer} for answer in answers]}
    daemon.call("create_program", {"id": "n", "signature": f"question -> n: {type_}", "lm": lm}, session=qa)
    inputs = [{"question": "one"}, {"question": "another"}]
    asked = {"program_id": "n", "inputs": inputs, "max_concurrency": 1, "save_as": "n.parquet"}
    assert daemon.call("execute_batch", asked, session=qa)["succeeded"] == 2
    assert [row["outputs.n"] for row in read_table(folder / "n.parquet")] == found


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("scores.txt", "invalid_args", "is none of .csv"),
        ("nowhere/scores.csv", "invalid_args", "No such file or directory"),
        ("folder.csv", "invalid_args", "is no file"),
        ("pipe.csv", "invalid_args", "is no file"),
        ("rows.json/scores.csv", "invalid_args", "Not a directory"),
        ("x" * 300 + ".csv", "invalid_args", "too long"),
        ("nul\0.csv", "invalid_args", "null"),
        ("/etc/scores.csv", "unsupported", "--allow-data"),
        pytest.param(
            "locked/scores.csv",
            "invalid_args",
            "Permission denied",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere"),
        ),
    ],
)
def test_where_nothing_can_be_saved_nothing_runs(
    daemon: Client, qa: str, folder: Path, name: str, code: str, says: str
) -> None:
    (folder / "folder.csv").mkdir()
    (folder / "locked").mkdir(mode=0o500)
    os.mkfifo(folder / "pipe.csv")
    write(folder, "rows.json")
    before = sorted(folder.iterdir())
    asked = counting(daemon)
    batch = {"program_id": "qa", "inputs": ROWS, "lenient": True}
    for command, args in (("evaluate_program", EVALUATION), ("execute_batch", batch)):
        used = daemon.call("get_usage", session=qa)
        with pytest.raises(CommandFailed) as failed:
            daemon.call(command, {**args, "save_as": name}, session=qa)
        assert failed.value.code == code, failed.value.error
        assert says in failed.value.message
        assert daemon.call("get_usage", session=qa) == used
    assert not asked
    assert sorted(folder.iterdir()) == before


def test_what_is_there_already_stays_until_there_is_something_to_save(daemon: Client, qa: str, folder: Path) -> None:
    (folder / "scores.csv").write_text("of yesterday")
    seen: list[str] = []
    counting(daemon, lambda: seen.append((folder / "scores.csv").read_text()))
    daemon.call("evaluate_program", {**EVALUATION, "save_as": "scores.csv"}, session=qa)
    assert seen == ["of yesterday"] * 3
    assert len(read_table(folder / "scores.csv")) == 3


def test_results_that_cannot_be_saved_in_the_end_are_in_the_error(daemon: Client, qa: str, folder: Path) -> None:
    counting(daemon, lambda: (folder / "scores.csv").mkdir(exist_ok=True))
    with pytest.raises(CommandFailed, match="Is a directory") as failed:
        daemon.call("evaluate_program", {**EVALUATION, "save_as": "scores.csv"}, session=qa)
    result = failed.value.details["result"]
    assert (result["score"], len(result["results"])) == (100.0, 3)


def test_parquet_without_pyarrow_is_refused_before_anything_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "without").mkdir()
    (folder / "without" / "pyarrow.py").write_text("raise ImportError('there is no pyarrow')")
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'without'}:{os.environ['PYTHONPATH']}")
    with Client.spawn() as client:
        client.call("start_session", {"cwd": str(folder), "lm": {"model": "scripted"}}, session="default")
        client.call("create_program", {"id": "qa", "signature": "question -> answer"})
        asked = counting(client)
        with pytest.raises(CommandFailed, match=r"dspy-bridge\[parquet\]") as failed:
            client.call("evaluate_program", {**EVALUATION, "save_as": "scores.parquet"})
        assert failed.value.code == "unsupported"
        assert not asked
