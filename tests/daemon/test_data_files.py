"""Rows from files and results to files, in folders that are allowed and no others."""

from __future__ import annotations

import csv
import json
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
