"""Agents that use the tools of MCP servers: real ones, over pipes and over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from dspy_bridge.client import Client, CommandFailed

Frame = dict[str, Any]
SERVER = [sys.executable, "-m", "tests.support.mcp_server"]


@pytest.fixture(scope="module")
def allowing() -> Iterator[Client]:
    """A daemon whose operator allows MCP servers."""
    client = Client.spawn(["--allow-mcp", "--preload", "mcp"])
    yield client
    assert client.close() == 0


@pytest.fixture
def session(allowing: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    # A command gets only what it is given, and the marker by which these tests find what is left behind.
    env = {"TEST_MCP_TOKEN": "tok-123", "BRIDGE_TEST_MARKER": os.environ["BRIDGE_TEST_MARKER"]}
    allowing.call("start_session", {"env": env, "cwd": os.getcwd()}, session=request.node.name)
    yield request.node.name
    allowing.call("end_session", session=request.node.name)
    allowing.on_call = None


def over_pipes(**more: Any) -> Frame:
    return {"command": SERVER, "env_from": ["BRIDGE_TEST_MARKER", "PYTHONPATH"], **more}


def create(client: Client, session: str, *servers: Frame, **more: Any) -> None:
    client.call("configure_lm", {"model": "host"}, session=session)
    spec = {"id": "agent", "program_type": "react", "signature": "question -> answer", "mcp": list(servers)}
    client.call("create_program", {**spec, **more}, session=session)


def use(client: Client, session: str, tool: str, **args: Any) -> Any:
    """What an agent observes that calls this tool and then ends."""

    def written(**fields: Any) -> str:
        sections = [f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()]
        return "\n\n".join([*sections, "[[ ## completed ## ]]"])

    given = str(args).replace("'", '"')
    steps = iter(
        [
            written(next_thought="I use it", next_tool_name=tool, next_tool_args=given),
            written(next_thought="done", next_tool_name="finish", next_tool_args="{}"),
            written(reasoning="so", answer="done"),
        ]
    )
    client.on_call = lambda _frame: next(steps)
    ask = {"program_id": "agent", "inputs": {"question": "?"}}
    outputs = client.call("execute_program", ask, session=session)["outputs"]
    return outputs["trajectory"]["observation_0"]


def test_an_agent_uses_the_tools_of_a_command(allowing: Client, session: str) -> None:
    create(allowing, session, over_pipes())
    assert str(use(allowing, session, "add", a=2, b=3)) == "5"
    assert "Error executing tool fail" in use(allowing, session, "fail", why="x")
    assert "Traceback" not in use(allowing, session, "fail", why="x")


def test_a_command_gets_only_the_variables_it_is_given(allowing: Client, session: str) -> None:
    create(allowing, session, over_pipes())
    assert use(allowing, session, "whoami").endswith("nobody")
    passed = over_pipes(env_from=["TEST_MCP_TOKEN", "BRIDGE_TEST_MARKER", "PYTHONPATH"])
    create(allowing, session, passed, on_exists="replace")
    assert use(allowing, session, "whoami").endswith("tok-123")


def test_one_connection_serves_every_call_and_a_server_that_died_is_started_again(
    allowing: Client, session: str
) -> None:
    create(allowing, session, over_pipes())
    first = use(allowing, session, "whoami")
    assert use(allowing, session, "whoami") == first
    assert use(allowing, session, "die").startswith("Error: ")
    again = use(allowing, session, "whoami")
    assert again.split()[0].isdigit()
    assert again != first


def test_a_tool_that_takes_too_long_is_an_observation(allowing: Client, session: str) -> None:
    create(allowing, session, over_pipes(timeout_ms=300))
    assert use(allowing, session, "dawdle") == "Error: dawdle did not answer within 0.3 s"


def test_a_fresh_interpreter_connects_again_and_the_old_servers_are_gone(allowing: Client, session: str) -> None:
    create(allowing, session, over_pipes())
    old = int(use(allowing, session, "whoami").split()[0])
    (worker,) = allowing.call("session_info", session=session)["workers"]
    os.kill(worker["pid"], 9)
    assert int(use(allowing, session, "whoami").split()[0]) != old
    deadline = time.monotonic() + 5
    while psutil.pid_exists(old):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tools_can_be_chosen_and_prefixed(allowing: Client, session: str) -> None:
    create(allowing, session, over_pipes(tools=["add"], prefix="math_"))
    assert str(use(allowing, session, "math_add", a=1, b=1)) == "2"


def test_a_server_over_http_gets_its_headers_from_the_environment(allowing: Client, session: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([*SERVER, str(port)], stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        try:
            url = f"http://127.0.0.1:{port}/mcp"
            create(allowing, session, {"url": url, "headers_from": {"X-Token": "TEST_MCP_TOKEN"}})
            assert str(use(allowing, session, "add", a=20, b=22)) == "42"
            with pytest.raises(CommandFailed) as failed:
                create(allowing, session, {"url": url, "headers_from": {"X-Token": "NOT_SET"}}, on_exists="replace")
            assert failed.value.code == "tool_error"
            assert "'NOT_SET'" in str(failed.value)
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("server", "code", "says"),
    [
        ({"command": ["/no/such/program"]}, "tool_error", "/no/such/program"),
        ({"command": ["false"]}, "tool_error", "false"),
        ({"url": "http://127.0.0.1:9/mcp"}, "tool_error", "127.0.0.1:9"),
        ({}, "invalid_args", "one of them"),
        ({"command": ["x"], "url": "http://x"}, "invalid_args", "one of them"),
        ({"command": ["x"], "env": {"KEY": "literal"}}, "invalid_args", "env"),
        ({"command": SERVER, "env_from": ["PYTHONPATH"], "tools": ["subtract"]}, "invalid_args", "'subtract'"),
    ],
)
def test_a_server_that_cannot_be_used_is_named(
    allowing: Client, session: str, server: Frame, code: str, says: str
) -> None:
    with pytest.raises(CommandFailed) as failed:
        create(allowing, session, server)
    assert failed.value.code == code
    assert says in str(failed.value)


def test_two_tools_of_one_name_are_refused(allowing: Client, session: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        create(allowing, session, over_pipes(tools=["add"]), over_pipes(tools=["add"], timeout_ms=1000))
    assert "prefix" in str(failed.value)


def test_mcp_servers_are_the_operators_to_allow(daemon: Client) -> None:
    with pytest.raises(CommandFailed) as failed:
        create(daemon, "not allowed", over_pipes())
    assert failed.value.code == "unsupported"
    assert "--allow-mcp" in str(failed.value)
    daemon.call("end_session", session="not allowed")
