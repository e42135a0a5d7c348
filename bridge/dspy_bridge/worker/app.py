"""The worker's loop: one request at a time, in the main thread, where DSPy wants to be configured.

Each request ends with exactly one ``REPLY`` frame, whatever its program does, preceded in the same
write by what it changed of the session's state.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import dspy

from dspy_bridge import jsonlib
from dspy_bridge.protocol import envelope
from dspy_bridge.protocol.commands import COMMANDS
from dspy_bridge.protocol.envelope import Call
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker import keys
from dspy_bridge.worker.caching import use_cache
from dspy_bridge.worker.exceptions import to_bridge_error
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.rehearsal import rehearse
from dspy_bridge.worker.session import SessionRuntime
from dspy_bridge.worker.threaded import SETTING, Threads
from session_supervisor.channel import Channel
from session_supervisor.frames import Kind, pack
from session_supervisor.hygiene import Interrupted, InterruptGate
from session_supervisor.limits import CpuExhausted, LimitKeeper, Limits
from session_supervisor.os_facts import flush_c_stdio, gil_enabled, private_memory, release_free_memory
from session_supervisor.snapshot import Parts, decode_parts, encode_parts


def serve(channel: Channel, gate: InterruptGate) -> None:
    """Serve one worker's channel until it is told to stop."""
    rehearse()
    use_cache(True)
    channel.send(Kind.READY)
    runtime: SessionRuntime | None = None
    threads: Threads | None = None
    keeper = LimitKeeper(Limits())
    while True:
        kind, number, body = channel.receive()
        if kind is Kind.REQUEST:
            assert runtime is not None
            call = envelope.parse(body)
            assert isinstance(call, Call)  # the daemon forwards nothing else
            if threads is None:
                _reply(channel, runtime, number, _answer(runtime, _scope(gate, keeper), keeper.limits, number, call))
            elif _changes_session(call):
                threads.serve_here(number, call)
            else:
                threads.serve(number, call)
        elif kind is Kind.HOLD:
            channel.hold(number)
        elif kind is Kind.GO:
            channel.let_go(number)
        elif kind is Kind.CANCEL:
            assert threads is not None
            threads.cancel(number)
        elif kind is Kind.LOAD:
            assert runtime is not None
            runtime.load(decode_parts(body))
        elif kind is Kind.ASSIGN:
            try:
                birth = jsonlib.loads(body)
                runtime = _become(birth, Host(channel))
                keeper = LimitKeeper(Limits(**birth.get("limits", {})))
                keeper.apply()
                if birth.get("threads", 1) > 1:
                    threads = _threads(birth["threads"], channel, runtime, keeper)
            except Exception as exc:  # noqa: BLE001 - every reason is told to the host
                channel.send(Kind.REFUSED, 0, to_bridge_error(exc).encode())
                return
            channel.send(Kind.ASSIGNED, 0, jsonlib.dumps(_facts()))
        elif kind is Kind.COLLECT:
            gc.collect()
            release_free_memory()
            channel.send(Kind.HOLDS, private_memory(os.getpid()))
        elif kind is Kind.STOP:
            if runtime is not None:
                runtime.close()
            return


def _facts() -> dict[str, Any]:
    """Of this interpreter, now that the session's own modules are imported: one of them may have switched the
    GIL on."""
    return {"python": platform.python_version(), "gil": gil_enabled()}


def _become(birth: Mapping[str, Any], host: Host) -> SessionRuntime:
    """Take on the environment, folders and state of the session."""
    own = birth.get("env") or {}
    os.environ.update(own)
    keys.allow(birth.get("allow_key_env", ()), own)
    os.environ["TMPDIR"] = birth["scratch"]
    tempfile.tempdir = None
    sys.path += birth.get("import_path", ())
    cwd = birth.get("cwd")
    if cwd is not None:
        try:
            os.chdir(cwd)
        except OSError as exc:
            errors = [{"path": "args.cwd", "reason": str(exc)}]
            raise BridgeError("invalid_args", f"args.cwd: {exc}", details={"errors": errors}) from None
    return SessionRuntime(birth, host)


@contextlib.contextmanager
def _scope(gate: InterruptGate, keeper: LimitKeeper) -> Iterator[LimitKeeper]:
    """One request in the main thread: it can be interrupted, and is bounded."""
    with gate, keeper.request():
        yield keeper


def _threads(count: int, channel: Channel, runtime: SessionRuntime, keeper: LimitKeeper) -> Threads:
    def answer(number: int, call: Call) -> bytes:
        with dspy.context(**{SETTING: number}):
            return _answer(runtime, contextlib.nullcontext(keeper), keeper.limits, number, call)

    return Threads(count, channel, answer, functools.partial(_reply, channel, runtime))


def _changes_session(call: Call) -> bool:
    """Whether this request is one that changes its session."""
    command = COMMANDS.get(call.command)
    return command is not None and command.mutating


def _answer(
    runtime: SessionRuntime,
    scope: contextlib.AbstractContextManager[LimitKeeper],
    limits: Limits,
    number: int,
    call: Call,
) -> bytes:
    """Serve one request; the frames that end it."""
    spent = False
    try:
        with scope:
            result = runtime.serve(call)
            reply = envelope.success(call.id, call.rpc, result)
    except Interrupted:
        reply = envelope.failure(call.id, call.rpc, BridgeError("cancelled", "the request was interrupted"))
    except BaseException as exc:  # noqa: BLE001 - not even sys.exit() may leave a request unanswered
        # After these two what the program left half done cannot be told: a fresh interpreter goes on.
        spent = isinstance(exc, (CpuExhausted, MemoryError))
        if spent:
            LimitKeeper(limits).relax()
            traceback.clear_frames(exc.__traceback__)
        error = to_bridge_error(exc, secrets=runtime.secrets(), limits=limits)
        reply = envelope.failure(call.id, call.rpc, error)
    return (pack(Kind.SPENT, number) if spent else b"") + pack(Kind.REPLY, number, reply)


def _reply(channel: Channel, runtime: SessionRuntime, number: int, ending: bytes) -> None:
    """Send what ends one request, behind what has been printed and what has been changed."""
    _flush_output()

    def send(changed: Parts) -> None:
        parts = pack(Kind.PARTS, number, encode_parts(changed)) if changed else b""
        channel.send_many(parts + ending)

    runtime.state.hand_over(send)


def _flush_output() -> None:
    """What a program printed leaves before its reply, whichever layer it printed through."""
    for stream, own in ((sys.stdout, sys.__stdout__), (sys.stderr, sys.__stderr__)):
        if stream is not own:  # ours write through; one a program put in its place may hold something back
            with contextlib.suppress(Exception):
                stream.flush()
    flush_c_stdio()
