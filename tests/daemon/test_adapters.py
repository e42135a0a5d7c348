"""Sessions with Python of the operator's own: tools by name, kept state, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dspy_bridge
from dspy_bridge.client import Client, CommandFailed

Frame = dict[str, Any]
MODULE = "tests.support.adapters"
FLAGS = ["--allow-import", "tests.support"]


@pytest.fixture
def plain(allowing: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    allowing.call(
        "start_session",
        {"adapter": f"{MODULE}:Plain", "adapter_args": {"greeting": "good day"}},
        session=request.node.name,
    )
    yield request.node.name
    allowing.call("end_session", session=request.node.name)
    allowing.on_event = None


def use(client: Client, session: str, tool: str, /, **args: Any) -> Any:
    return client.call("call_tool", {"name": tool, "args": args}, session=session)["result"]


def refusal(client: Client, session: str, command: str, args: Frame) -> Frame:
    with pytest.raises(CommandFailed) as failed:
        client.call(command, args, session=session)
    return failed.value.error


def test_tools_are_listed_with_the_schema_of_their_annotations(allowing: Client, plain: str) -> None:
    tools = {one["name"]: one for one in allowing.call("list_tools", session=plain)["tools"]}
    names = {"greet", "move", "count", "fail", "misjudge", "misjudge_later", "remember", "blas_threads", "nothing"}
    assert tools.keys() == {*names, "shelf"}
    assert tools["greet"]["description"] == "Greets somebody."
    assert tools["greet"]["args"]["properties"]["loud"] == {"default": False, "title": "Loud", "type": "boolean"}
    assert tools["greet"]["args"]["required"] == ["name"]
    assert tools["move"]["description"] == "Moves a point."
    assert [name for name, one in tools.items() if one["supports_streaming"]] == ["count", "misjudge_later"]


def test_a_tool_is_called_by_name_or_as_a_command(allowing: Client, plain: str) -> None:
    assert use(allowing, plain, "greet", name="Ann", loud=True) == "GOOD DAY, ANN"
    assert allowing.call("greet", {"name": "Ben"}, session=plain) == "good day, Ben"
    assert allowing.call("move", {"point": {"x": 1}, "by": 2}, session=plain) == {"x": 3, "y": 0}


def test_a_generator_streams_its_items(allowing: Client, plain: str) -> None:
    events: list[Frame] = []
    allowing.on_event = events.append
    done = allowing.call("call_tool", {"name": "count", "args": {"to": 3}}, session=plain)
    assert done == {"tool": "count", "result": "counted to 3", "items": 3}
    items = [one["data"] for one in events if one["event"] == "item"]
    assert items == [{"index": n, "value": n} for n in range(3)]


def test_the_clients_stream_whatever_a_tool_results_in() -> None:
    async def awaited() -> list[Any]:
        given = dspy_bridge.aconnect(args=FLAGS)
        async with given as bridge, bridge.session(adapter=f"{MODULE}:Plain") as session:
            said = []
            for name, args in asked:
                said.append([one async for one in session.stream(name, args)][-1])
            return said

    asked: list[tuple[str, Frame]] = [("greet", {"name": "Ann"}), ("blas_threads", {}), ("nothing", {}), ("shelf", {})]
    results = ["hello, Ann", "1", None, {"outputs": [1]}]
    with dspy_bridge.connect(args=FLAGS) as bridge, bridge.session(adapter=f"{MODULE}:Plain") as session:
        assert [session.stream(name, args).result for name, args in asked] == results
        with session.stream("count", {"to": 2}) as stream:
            assert [one.data["value"] for one in stream if one.event == "item"] == [0, 1]
    assert asyncio.run(awaited()) == results


def test_one_instance_lives_as_long_as_its_interpreter_and_what_is_kept_lives_longer(
    allowing: Client, plain: str
) -> None:
    use(allowing, plain, "greet", name="Ann")
    first = use(allowing, plain, "remember", value={"n": 1})
    assert (first["before"], first["calls"], first["set up"]) == (None, 1, True)
    events: list[Frame] = []
    allowing.on_event = events.append
    allowing.call("recycle_session", session=plain)
    second = use(allowing, plain, "remember", value=2)
    assert (second["before"], second["calls"], second["set up"]) == ({"n": 1}, 0, True)
    assert first["pid"] != second["pid"]
    document = allowing.call("export_session", session=plain)["document"]
    assert document["parts"]["adapter:kept"] == 2
    moved = f"{plain} moved"
    allowing.call("import_session", {"document": document}, session=moved)
    assert use(allowing, moved, "remember", value=3)["before"] == 2
    allowing.call("end_session", session=moved)


def test_numeric_libraries_get_one_thread_unless_the_session_says_otherwise(allowing: Client, plain: str) -> None:
    assert use(allowing, plain, "blas_threads") == "1"
    given = {"adapter": f"{MODULE}:Plain", "env": {"OMP_NUM_THREADS": "3"}}
    allowing.call("start_session", given, session="more threads")
    assert use(allowing, "more threads", "blas_threads") == "3"
    allowing.call("end_session", session="more threads")


@pytest.mark.parametrize(
    ("command", "args", "code", "says"),
    [
        ("call_tool", {"name": "greet", "args": {}}, "invalid_args", "args.args.name"),
        ("greet", {"name": "Ann", "loud": "very"}, "invalid_args", "args.loud"),
        ("greet", {"nme": "Ann"}, "invalid_args", "args.n"),
        ("call_tool", {"name": "greeet"}, "invalid_args", "did you mean 'greet'"),
        ("call_tool", {"name": "hidden"}, "invalid_args", "no tool 'hidden'"),
        ("hidden", {}, "unknown_command", "'hidden'"),
        ("fail", {}, "tool_error", "RuntimeError: it broke"),
        ("misjudge", {}, "tool_error", "ValidationError"),
        ("call_tool", {"name": "misjudge_later"}, "tool_error", "ValidationError"),
        ("misjudge", {"x": 1}, "invalid_args", "args.x"),
    ],
)
def test_what_a_tool_cannot_do_is_said(
    allowing: Client, plain: str, command: str, args: Frame, code: str, says: str
) -> None:
    error = refusal(allowing, plain, command, args)
    assert error["code"] == code, error
    assert says in error["message"]
    if code == "tool_error":
        assert "Error" in error["details"]["traceback"]
    assert use(allowing, plain, "greet", name="still") == "good day, still"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ({"adapter": "os:path"}, "unsupported", "--allow-import"),
        ({"adapter": f"{MODULE}:Nothing"}, "invalid_args", "Nothing"),
        ({"adapter": "no colon"}, "invalid_args", "adapter"),
        ({"adapter": f"{MODULE}:Plain", "adapter_args": {"gretting": "x"}}, "tool_error", "gretting"),
        ({"adapter": f"{MODULE}:Awaited"}, "tool_error", "wait is async"),
        ({"adapter": f"{MODULE}:Broken"}, "tool_error", "no index here"),
        ({"adapter": f"{MODULE}:Plain", "threads": 2}, "unsupported", "__thread_safe__ = True in the body of Plain"),
        ({"adapter": f"{MODULE}:Undeclared", "threads": 2}, "unsupported", "in the body of Undeclared"),
        ({"adapter": f"{MODULE}:Careless", "threads": 2}, "tool_error", "super().__init__()"),
        ({"threads": 2, "max_cpu_s": 1}, "unsupported", "max_cpu_s: 0"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused_at_the_start(allowing: Client, args: Frame, code: str, says: str) -> None:
    error = refusal(allowing, "refused", "start_session", args)
    assert error["code"] == code, error
    assert says in error["message"]
    assert "refused" not in [one["session_id"] for one in allowing.call("list_sessions")["sessions"]]


def test_a_session_without_an_adapter_knows_no_further_commands(allowing: Client) -> None:
    assert allowing.call("list_tools", session="none") == {"tools": [], "thread_safety": None}
    assert refusal(allowing, "none", "greet", {"name": "x"})["code"] == "unknown_command"
    allowing.call("end_session", session="none")


def test_a_session_ended_while_its_next_interpreter_is_still_setting_up_ends(allowing: Client) -> None:
    allowing.call("start_session", {"adapter": f"{MODULE}:Slow"}, session="brief")
    recycling = allowing.start("recycle_session", session="brief")
    while allowing.call("get_stats")["workers"]["started"] < 2:
        pass
    assert allowing.call("end_session", session="brief", timeout=10)["status"] == "ended"
    assert allowing.reply(recycling)["success"] is False


def test_adapters_are_found_in_folders_the_operator_names(folder: Path) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "till.py").write_text(
        "from dspy_bridge.adapter import tool\n\n\n"
        "class Till:\n    @tool\n    def ring(self) -> str:\n        return 'ding'\n"
    )
    with Client.spawn(["--import-path", str(folder / "shop"), "--allow-import", "till"]) as client:
        client.call("start_session", {"adapter": "till:Till"}, session="s")
        assert client.call("ring", session="s") == "ding"
