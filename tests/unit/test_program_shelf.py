"""The programs of a session while several threads use them."""

from __future__ import annotations

from typing import Any

import pytest

from dspy_bridge import jsonlib
from dspy_bridge.worker import program_shelf
from dspy_bridge.worker.data import DataFolder
from dspy_bridge.worker.embedders import EmbedderShelf
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.model_shelf import ModelShelf
from dspy_bridge.worker.program_shelf import ProgramShelf
from dspy_bridge.worker.state import State


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def shelf(state: State) -> ProgramShelf:
    host = Host(None)
    models, embedders = ModelShelf(state, host), EmbedderShelf(state, host)
    return ProgramShelf(state, models, embedders, DataFolder((), ""), host, {"session_id": "s", "scratch": ""})


def part(signature: str) -> bytes:
    spec = {"signature": signature}
    return jsonlib.dumps({"spec": spec, "signature": signature, "created_at": "", "secret_fields": []})


def test_news_of_a_program_hold_also_where_its_predecessor_is_being_built(
    state: State, shelf: ProgramShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = program_shelf.build_program

    def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(program_shelf, "build_program", build)
        state.load({"program:p": part("a -> new")})
        shelf.forget_built("p")
        return build(*args)

    monkeypatch.setattr(program_shelf, "build_program", overtaken)
    state.load({"program:p": part("a -> old")})
    assert shelf.program("p").spec == {"signature": "a -> old"}  # who asked before may get what was before
    assert shelf.program("p").spec == {"signature": "a -> new"}


def test_types_may_be_defined_anew_while_the_old_ones_are_being_built(
    state: State, shelf: ProgramShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = program_shelf._build_types

    def overtaken(described: Any) -> Any:
        monkeypatch.setattr(program_shelf, "_build_types", build)
        state.load({"types": jsonlib.dumps({"New": "int"})})
        shelf.forget_types()
        return build(described)

    monkeypatch.setattr(program_shelf, "_build_types", overtaken)
    state.load({"types": jsonlib.dumps({"Old": "int"})})
    assert list(shelf.named_types()) == ["Old"]
    assert list(shelf.named_types()) == ["New"]


def test_the_models_of_programs_are_told_while_others_are_being_built(
    state: State, shelf: ProgramShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = iter(["p1", "p2", "p3"])

    class Built:
        @property
        def model(self) -> None:
            """At this moment another thread builds one more."""
            for name in names:
                shelf.program(name)

    monkeypatch.setattr(program_shelf, "build_program", lambda *_: Built())
    state.load({f"program:p{n}": part("a -> b") for n in range(4)})
    shelf.program("p0")
    assert shelf.models() == []
