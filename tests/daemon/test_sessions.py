"""Sessions and programs as a host sees them."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from dspy_bridge.client import Client, CommandFailed
from dspy_bridge.protocol.commands import COMMANDS
from dspy_bridge.protocol.errors import ERRORS
from dspy_bridge.protocol.session_commands import ProgramType


def code_of(client: Client, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CommandFailed) as failed:
        client.call(*args, **kwargs)
    return failed.value.code


@pytest.fixture
def scripted(daemon: Client, session: str) -> str:
    daemon.call("configure_lm", {"model": "scripted"}, session=session)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    return session


def run(client: Client, session: str, program: str = "qa", **inputs: Any) -> Any:
    args = {"program_id": program, "inputs": inputs or {"question": "hi"}}
    return client.call("execute_program", args, session=session)


def test_the_same_program_id_in_eight_sessions_with_different_signatures(daemon: Client) -> None:
    for n in range(8):
        args = {"id": "p", "signature": f"question -> answer_{n}"}
        daemon.call("create_program", args, session=f"same{n}")
        daemon.call("configure_lm", {"model": "scripted", "answers": [{f"answer_{n}": str(n)}]}, session=f"same{n}")
    opened = [
        daemon.start("execute_program", {"program_id": "p", "inputs": {"question": "?"}}, session=f"same{n}")
        for n in range(8)
    ]
    assert [daemon.finish(number)["outputs"] for number in opened] == [{f"answer_{n}": str(n)} for n in range(8)]
    for n in range(8):
        daemon.call("end_session", session=f"same{n}")


def test_a_program_exists_only_in_its_own_session(daemon: Client, scripted: str) -> None:
    assert code_of(daemon, "create_program", {"id": "qa", "signature": "a -> b"}, session=scripted) == "program_exists"
    assert code_of(daemon, "get_program_info", {"program_id": "qa"}, session=f"{scripted}2") == "program_not_found"
    daemon.call("create_program", {"id": "qa", "signature": "a -> b"}, session=f"{scripted}2")
    daemon.call("end_session", session=f"{scripted}2")


@pytest.mark.parametrize(("policy", "status"), [("replace", "replaced"), ("keep", "kept")])
def test_what_to_do_if_a_program_exists_is_the_hosts_choice(
    daemon: Client, scripted: str, policy: str, status: str
) -> None:
    args = {"id": "qa", "signature": "a -> b", "on_exists": policy}
    created = daemon.call("create_program", args, session=scripted)
    assert created["status"] == status
    assert created["signature"] == ("a: str -> b: str" if policy == "replace" else "question: str -> answer: str")


def test_the_life_of_a_program(daemon: Client, scripted: str) -> None:
    assert run(daemon, scripted)["outputs"]["answer"].startswith("scripted answer")
    listed = daemon.call("list_programs", session=scripted)
    assert listed["total_count"] == 1
    assert listed["programs"][0]["execution_count"] == 1
    info = daemon.call("get_program_info", {"program_id": "qa"}, session=scripted)
    assert [field["name"] for field in info["fields"]["inputs"]] == ["question"]
    assert daemon.call("delete_program", {"program_id": "qa"}, session=scripted)["status"] == "deleted"
    assert code_of(daemon, "delete_program", {"program_id": "qa"}, session=scripted) == "program_not_found"
    assert code_of(daemon, "execute_program", {"program_id": "qa"}, session=scripted) == "program_not_found"


def test_clear_and_reset_say_what_they_did(daemon: Client, scripted: str) -> None:
    assert daemon.call("clear_program", {"program_id": "qa"}, session=scripted)["status"] == "cleared"
    assert daemon.call("clear_program", {"program_id": "qa"}, session=scripted)["status"] == "not_found"
    for name in "abc":
        daemon.call("create_program", {"id": name, "signature": "x -> y"}, session=scripted)
    assert daemon.call("reset_state", session=scripted)["cleared_programs"] == 3
    assert daemon.call("list_programs", session=scripted)["total_count"] == 0
    daemon.call("create_program", {"id": "a", "signature": "x -> y"}, session=scripted)
    assert code_of(daemon, "execute_program", {"program_id": "a", "inputs": {"x": "1"}}, session=scripted) == (
        "lm_not_configured"
    )


def test_reset_goes_back_to_what_the_session_was_started_with(daemon: Client, session: str) -> None:
    lm = {"model": "scripted", "answers": [{"answer": "as born"}]}
    daemon.call("start_session", {"lm": lm, "settings": {"adapter": "json"}}, session=session)
    daemon.call("configure_lm", {"model": "scripted", "answers": [{"answer": "changed"}]}, session=session)
    daemon.call("reset_state", session=session)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    assert run(daemon, session)["outputs"] == {"answer": "as born"}


@pytest.mark.parametrize("how", ["recycle", "kill", "timeout"])
def test_state_outlives_the_interpreter(daemon: Client, scripted: str, how: str) -> None:
    daemon.call("configure", {"adapter": "json", "num_threads": 3}, session=scripted)
    answers = [{"answer": str(n)} for n in range(9)]
    daemon.call("configure_lm", {"model": "scripted", "answers": answers}, session=scripted)
    assert [run(daemon, scripted)["outputs"]["answer"] for _ in range(2)] == ["0", "1"]
    before = daemon.call("session_info", session=scripted)["workers"][0]["pid"]
    if how == "recycle":
        daemon.call("recycle_session", session=scripted)
    elif how == "kill":
        os.kill(before, signal.SIGKILL)
    else:
        slow = {"model": "scripted", "delay_ms": 60_000}
        args = {"program_id": "qa", "inputs": {"question": "?"}, "lm": slow}
        number = daemon.start("execute_program", args, session=scripted, timeout_ms=200)
        assert daemon.reply(number)["error"]["code"] == "timeout"
    assert run(daemon, scripted)["outputs"]["answer"] == "2"
    listed = daemon.call("list_programs", session=scripted)["programs"][0]
    assert listed["execution_count"] >= 3
    after = daemon.call("session_info", session=scripted)
    assert after["workers"][0]["pid"] != before
    assert after["programs"] == ["qa"]


def test_cancel_ends_a_running_request(daemon: Client, scripted: str) -> None:
    args = {"program_id": "qa", "inputs": {"question": "?"}, "lm": {"model": "scripted", "delay_ms": 60_000}}
    number = daemon.start("execute_program", args, session=scripted)
    assert daemon.call("cancel", {"request_id": number})["status"] == "cancelling"
    assert daemon.reply(number)["error"]["code"] == "cancelled"
    assert daemon.call("cancel", {"request_id": number})["status"] == "not_found"
    assert run(daemon, scripted)["outputs"]


def test_control_commands_are_answered_while_the_session_is_busy(daemon: Client, scripted: str) -> None:
    args = {"program_id": "qa", "inputs": {"question": "?"}, "lm": {"model": "scripted", "delay_ms": 60_000}}
    number = daemon.start("execute_program", args, session=scripted)
    assert daemon.call("ping", timeout=2)["status"] == "ok"
    assert daemon.call("session_info", session=scripted, timeout=2)["workers"][0]["state"] == "busy"
    daemon.call("cancel", {"request_id": number})
    daemon.reply(number)


def test_a_session_has_its_own_environment_and_folder(daemon: Client, session: str, folder: Any) -> None:
    started = daemon.call("start_session", {"env": {"FLAVOUR": "vanilla"}, "cwd": str(folder)}, session=session)
    assert os.readlink(f"/proc/{started['worker_pid']}/cwd") == str(folder)
    assert code_of(daemon, "start_session", {}, session=session) == "session_exists"


def test_a_session_that_could_not_start_does_not_exist(daemon: Client) -> None:
    args = {"lm": {"model": "openai/x", "api_key_env": "SURELY_NOT_SET_KEY"}}
    assert code_of(daemon, "start_session", args, session="stillborn") == "lm_not_configured"
    assert code_of(daemon, "session_info", session="stillborn") == "session_not_found"


def test_to_end_what_does_not_exist_is_no_error(daemon: Client) -> None:
    assert daemon.call("end_session", session="never")["status"] == "not_found"
    assert daemon.call("cleanup_session", session="never")["status"] == "not_found"


def test_session_variables_change_atomically_and_outlive_the_interpreter(daemon: Client, session: str) -> None:
    assert daemon.call("get_state", {"key": "n"}, session=session) == {"key": "n", "value": None, "found": False}
    opened = [daemon.start("update_state", {"key": "n", "op": "incr"}, session=session) for _ in range(1000)]
    assert [daemon.finish(number)["value"] for number in opened] == list(range(1, 1001))
    daemon.call("set_state", {"key": "list", "value": [1]}, session=session)
    assert daemon.call("update_state", {"key": "list", "op": "append", "value": {"a": 2}}, session=session)[
        "value"
    ] == [
        1,
        {"a": 2},
    ]
    swap = {"key": "n", "op": "compare_and_set", "expected": 1000, "value": "done"}
    assert daemon.call("update_state", swap, session=session)["changed"] is True
    assert daemon.call("update_state", swap, session=session)["changed"] is False
    daemon.call("list_programs", session=session)
    daemon.call("recycle_session", session=session)
    assert daemon.call("get_state", {"key": "n"}, session=session)["value"] == "done"
    assert code_of(daemon, "update_state", {"key": "n", "op": "incr"}, session=session) == "invalid_args"
    assert daemon.call("update_state", {"key": "n", "op": "delete"}, session=session)["changed"] is True
    assert daemon.call("get_state", {"key": "list"}, session=f"{session}-other")["found"] is False
    daemon.call("end_session", session=f"{session}-other")
    daemon.call("reset_state", session=session)
    assert daemon.call("get_state", {"key": "list"}, session=session)["found"] is False


def test_settings_are_dspys_settings_and_null_is_the_default(daemon: Client, session: str) -> None:
    configured = daemon.call("configure", {"num_threads": 3, "max_errors": 2}, session=session)
    assert configured["settings"]["num_threads"] == 3
    configured = daemon.call("configure", {"num_threads": None}, session=session)
    assert "num_threads" not in configured["settings"]
    assert configured["settings"]["max_errors"] == 2


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
@pytest.mark.parametrize("program_type", ["predict", "chain_of_thought"])
def test_every_program_type_under_every_adapter(daemon: Client, session: str, adapter: str, program_type: str) -> None:
    daemon.call("configure", {"adapter": adapter}, session=session)
    daemon.call("configure_lm", {"model": "scripted"}, session=session)
    signature = {
        "inputs": [{"name": "question", "type": "str"}],
        "outputs": [
            {"name": "answer", "type": "str"},
            {"name": "n", "type": "int"},
            {"name": "tags", "type": "list[str]"},
            {"name": "pick", "type": 'Literal["x", "y"]'},
        ],
    }
    daemon.call("create_program", {"id": "p", "signature": signature, "program_type": program_type}, session=session)
    outputs = run(daemon, session, "p", question="hm")["outputs"]
    assert isinstance(outputs["n"], int)
    assert isinstance(outputs["tags"], list)
    assert outputs["pick"] in ("x", "y")
    assert ("reasoning" in outputs) == (program_type == "chain_of_thought")
    assert run(daemon, session, "p", question="hm")["outputs"] == outputs, "the same for the same prompt"


def test_a_scripted_failure_looks_like_a_providers(daemon: Client, scripted: str) -> None:
    failing = {"model": "scripted", "answers": [{"error": {"status": 429, "message": "slow down"}}, {"answer": "ok"}]}
    daemon.call("configure_lm", failing, session=scripted)
    with pytest.raises(CommandFailed) as failed:
        run(daemon, scripted)
    assert failed.value.error["details"]["status"] == 429
    assert failed.value.error["retryable"] is True
    assert run(daemon, scripted)["outputs"] == {"answer": "ok"}


def test_inputs_are_checked_strictly_unless_asked_otherwise(daemon: Client, scripted: str) -> None:
    args = {"program_id": "qa", "inputs": {"questoin": "?"}}
    with pytest.raises(CommandFailed) as failed:
        daemon.call("execute_program", args, session=scripted)
    reasons = {one["path"]: one["reason"] for one in failed.value.error["details"]["errors"]}
    assert "question" in reasons["inputs.questoin"]
    assert reasons["inputs.question"] == "is required"
    assert daemon.call("execute_program", {**args, "lenient": True}, session=scripted)["outputs"]


def test_list_commands_publishes_the_schemas_arguments_are_validated_with(daemon: Client) -> None:
    listed = {one["name"]: one for one in daemon.call("list_commands")["commands"]}
    assert set(listed) == set(COMMANDS)
    properties = listed["create_program"]["args"]["properties"]
    assert set(properties) >= {"id", "signature", "program_type", "options"}
    assert listed["create_program"]["args"]["additionalProperties"] is False
    assert properties["program_type"]["enum"] == list(ProgramType.__args__)


def test_every_code_of_the_closed_list_has_its_own_json_rpc_number() -> None:
    numbers = [row.rpc for row in ERRORS.values()]
    assert len(set(numbers)) == len(numbers)


def test_cleanup_reports_memory(daemon: Client, scripted: str) -> None:
    assert daemon.call("cleanup", session=scripted)["memory_mb"] > 0


def test_stats_count_what_happened(daemon: Client, scripted: str) -> None:
    before = daemon.call("get_stats")
    run(daemon, scripted)
    after = daemon.call("get_stats")
    assert after["requests"]["total"] == before["requests"]["total"] + 1
    assert after["launcher"]["kind"] == "fork"
    assert 0 < after["requests"]["latency_ms"]["p50"] <= after["requests"]["latency_ms"]["p99"]
    assert after["memory_mb"]["template"] > 0
