"""``bridge-cli demo``: isolation and crash safety, shown in a few seconds on a private daemon."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import click

from dspy_bridge import jsonlib
from dspy_bridge.client import Client, CommandFailed

_QUESTION = "What is the capital of France?"
_UNDER_WAY_S = 0.2
"""After so long a request that was handed to an interpreter is surely running."""
_SESSIONS = {"alice": "Paris.", "bob": "I only know Berlin."}


def run() -> dict[str, Any]:
    """What the demonstration found: a JSON-able report with a boolean ``ok``."""
    with Client.spawn() as client:
        pids, starts = {}, {}
        for session, answer in _SESSIONS.items():
            began = time.perf_counter()
            lm = {"model": "scripted", "answers": {"France": {"answer": answer}}}
            pids[session] = client.call("start_session", {"lm": lm}, session=session)["worker_pid"]
            # The same program id in both sessions: in one shared interpreter the second would fail.
            client.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
            starts[session] = round((time.perf_counter() - began) * 1000, 1)
        answers = {session: _ask(client, session) for session in _SESSIONS}

        slow = {"program_id": "qa", "inputs": {"question": "?"}, "lm": {"model": "scripted", "delay_ms": 5_000}}
        doomed = client.start("execute_program", slow, session="alice")
        while client.call("session_info", session="alice")["workers"][0]["state"] != "busy":
            time.sleep(0.01)
        time.sleep(_UNDER_WAY_S)
        os.kill(pids["alice"], signal.SIGKILL)
        try:
            client.finish(doomed)
            crash = "none"
        except CommandFailed as failed:
            crash = failed.code
        bob_after = _ask(client, "bob")
        alice_after = _ask(client, "alice")
        info = {session: client.call("session_info", session=session) for session in _SESSIONS}
    checks = {
        "same program id, own models": answers == _SESSIONS,
        "own interpreters": pids["alice"] != pids["bob"],
        "a killed interpreter fails its own request only": crash == "worker_crashed" and bob_after == answers["bob"],
        "the other session kept its interpreter": info["bob"]["workers"][0]["pid"] == pids["bob"],
        "the killed session is back, program and all": alice_after == answers["alice"],
    }
    return {
        "question": _QUESTION,
        "sessions": {
            session: {
                "pid": pids[session],
                "ready_in_ms": starts[session],
                "answer": answers[session],
                "recoveries": info[session]["recoveries"],
            }
            for session in _SESSIONS
        },
        "crash": {"killed": "alice", "her_request": crash, "bob_answered": bob_after, "alice_answered": alice_after},
        "checks": checks,
        "ok": all(checks.values()),
    }


def _ask(client: Client, session: str) -> str:
    args = {"program_id": "qa", "inputs": {"question": _QUESTION}}
    return str(client.call("execute_program", args, session=session)["outputs"]["answer"])


def _show(report: dict[str, Any]) -> None:
    click.secho("Two sessions, one daemon, the same program id 'qa'", bold=True)
    click.echo(f"  question: {report['question']}")
    for name, session in report["sessions"].items():
        facts = f"pid {session['pid']}, ready in {session['ready_in_ms']} ms"
        click.echo(f"  {name:<6} ({facts:<30}) answers: {session['answer']}")
    crash = report["crash"]
    click.secho("\nkill -9 on alice's interpreter while it runs a request", bold=True)
    click.echo(f"  alice's request ended with: {crash['her_request']}")
    click.echo(f"  bob, meanwhile, answers:    {crash['bob_answered']}")
    click.echo(f"  alice, asked again:         {crash['alice_answered']}")
    click.echo()
    for check, passed in report["checks"].items():
        click.secho(f"  {'ok  ' if passed else 'FAIL'} {check}", fg="green" if passed else "red")


@click.command("demo")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(as_json: bool) -> None:
    """Show two sessions with the same program id and different models, then kill one's interpreter.

    Needs no key and no network. Exits 1 if anything is not as it should be.
    """
    report = run()
    if as_json:
        click.echo(jsonlib.dumps(report, option=jsonlib.OPT_INDENT_2))
    else:
        _show(report)
    raise SystemExit(0 if report["ok"] else 1)
