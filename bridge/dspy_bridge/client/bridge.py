"""The Python client: sessions and programs as objects, for programs that wait.

    with dspy_bridge.connect() as bridge, bridge.session(lm="openai/gpt-4o-mini") as session:
        qa = session.program("question -> answer")
        print(qa(question="Why is the sky blue?").answer)

Everything here may be used from several threads. In a fork of its process it raises
:class:`~dspy_bridge.client.errors.UsedAfterFork`.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from dspy_bridge.client.commands import LM, Event, Execution, SessionCommands, read_result
from dspy_bridge.client.engine import Engine, OnEvent
from dspy_bridge.client.hosted import read_lm


def connect(
    socket: str | os.PathLike[str] | None = None, *, args: Sequence[str] = (), stderr: int | None = None
) -> Bridge:
    """Join the daemon that listens at ``socket`` (default: ``$DSPY_BRIDGE_SOCKET``), or where there is none
    start a private one with the flags ``args`` of ``bridge-cli serve``; it ends with this process.

    Raises :class:`~dspy_bridge.client.errors.TransportError`.
    """
    return Bridge(Engine.to(socket, args, stderr))


class Bridge:
    """A connection to a daemon. ``ready``: what the daemon said of itself."""

    def __init__(self, engine: Engine) -> None:
        self.begun: set[str] = set()
        """The sessions this bridge has begun and not ended."""
        self._engine = engine

    @property
    def ready(self) -> dict[str, Any]:
        return self._engine.ready

    def call(
        self,
        command: str,
        args: Mapping[str, Any] | None = None,
        *,
        session: str | None = None,
        timeout: float | None = None,
        on_event: OnEvent = lambda _event, _data: None,
    ) -> Any:
        """The result of one command of the wire. ``timeout``: seconds, kept by the daemon. ``on_event`` gets the
        events first, in another thread; what it raises is raised here. An interrupt (Ctrl-C) cancels the request.

        Raises :class:`~dspy_bridge.client.errors.CommandFailed` (its subclass for the code),
        :class:`~dspy_bridge.client.errors.TransportError`.
        """
        self._engine.check_waiting()
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def done(result: Any, error: Exception | None) -> None:
            future.set_exception(error) if error is not None else future.set_result(result)

        number = self._engine.submit(command, args or {}, done, on_event, session=session, timeout=timeout)
        try:
            return future.result()
        finally:
            if not future.done():
                self._engine.cancel(number)

    def session(self, session_id: str | None = None, *, lm: LM | None = None, **options: Any) -> Session:
        """A new session, ended at the end of a ``with`` block. ``options``: arguments of ``start_session``, such as
        ``settings``, ``env``, ``ttl_s``, ``max_memory_mb``, ``workers``."""
        config, function = read_lm(lm)
        if config is not None:
            options["lm"] = config
        session = Session(self, self._engine, self.call("start_session", options, session=session_id)["session_id"])
        session._begun(function)
        self.begun.add(session.id)
        return session

    def join(self, session_id: str) -> Session:
        """A session that exists already, or is to begin with its first command; it is not ended by ``with``."""
        return Session(self, self._engine, session_id, own=False)

    def sessions(self) -> list[dict[str, Any]]:
        """Every session of the daemon."""
        listed: list[dict[str, Any]] = self.call("list_sessions")["sessions"]
        return listed

    def close(self) -> int | None:
        """Let go; a private daemon ends, and its exit code is returned. Idempotent."""
        return self._engine.close()

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Session(SessionCommands[Any]):
    """One session: an interpreter, settings, models and programs of its own."""

    def __init__(self, bridge: Bridge, engine: Engine, session_id: str, *, own: bool = True) -> None:
        super().__init__(engine, session_id)
        self._bridge = bridge
        self._own = own

    def call(self, command: str, args: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        return self._bridge.call(command, args, session=self.id, timeout=timeout, on_event=self._heard)

    def stream(self, command: str, args: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> Stream:
        """The events of one command as they come."""
        return Stream(self._engine, command, args or {}, self.id, timeout, self._heard)

    def program(self, signature: Any = None, *, id: str | None = None, **options: Any) -> Program:
        """Make a program. ``options``: arguments of ``create_program``: ``program_type``, ``options``, ``lm``,
        ``tools`` (functions of this process, or descriptions), ``demos``, ``on_exists``."""
        args = self._program_args(signature, options)
        made = self.call("create_program", {**args, **({"id": id} if id is not None else {})})
        return Program(self, made["program_id"])

    def __getitem__(self, program_id: str) -> Program:
        """A program the session has already."""
        return Program(self, program_id)

    def end(self) -> None:
        """End it and everything of it."""
        self._engine.forget_session(self.id)
        self._bridge.call("end_session", session=self.id)
        self._bridge.begun.discard(self.id)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._own:
            self.end()


class Program:
    """A program of a session: call it with its inputs."""

    def __init__(self, session: Session, program_id: str) -> None:
        self.id = program_id
        self._session = session

    def __call__(self, **inputs: Any) -> Execution:
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Any], *, timeout: float | None = None, **options: Any) -> Execution:
        """As calling it, with ``config``, ``lm``, ``lenient`` for this execution alone."""
        args = self._session._execution_args(self.id, inputs, options)
        return Execution.read(self._session.call("execute_program", args, timeout=timeout))

    def stream(self, **inputs: Any) -> Stream:
        """Run it, and iterate over what it says meanwhile; the stream's ``result`` is the execution."""
        args = self._session._execution_args(self.id, inputs, {"stream": True})
        return self._session.stream("execute_program", args)

    def batch(self, inputs: Any, **options: Any) -> Any:
        """See :meth:`SessionCommands.batch`."""
        return self._session.batch(self.id, inputs, **options)

    def evaluate(self, examples: Any, metric: Any, **options: Any) -> Any:
        """See :meth:`SessionCommands.evaluate`."""
        return self._session.evaluate(self.id, examples, metric, **options)

    def compile(self, optimizer: str, trainset: Any, **options: Any) -> Program:
        """The compiled program; see :meth:`SessionCommands.compile`."""
        return Program(self._session, self._session.compile(self.id, optimizer, trainset, **options)["program_id"])

    def save(self) -> dict[str, Any]:
        """Its state in DSPy's own JSON."""
        state: dict[str, Any] = self._session.call("save_program", {"program_id": self.id})["state"]
        return state

    def load(self, state: Mapping[str, Any]) -> None:
        """Give it a saved state."""
        self._session.call("load_program", {"program_id": self.id, "state": state})

    def delete(self) -> None:
        self._session.call("delete_program", {"program_id": self.id})


class Stream(Iterator[Event]):
    """The events of one request as they come. After the last one, ``result`` is there; leaving early cancels."""

    def __init__(
        self,
        engine: Engine,
        command: str,
        args: Mapping[str, Any],
        session: str,
        timeout: float | None,
        heard: OnEvent,
    ) -> None:
        self._engine = engine
        self._command = command
        self._result: Any = None
        self._ended = True  # until there is something to cancel
        # The engine must not hold the stream itself, or dropping it would never end it.
        said: queue.SimpleQueue[Event | tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._said = said

        def on_event(event: str, data: dict[str, Any]) -> None:
            heard(event, data)
            said.put(Event(event, data))

        def done(result: Any, error: Exception | None) -> None:
            said.put((result, error))

        self._number = engine.submit(command, args, done, on_event, session=session, timeout=timeout)
        self._ended = False

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        self._engine.check_waiting()
        said = self._said.get()
        if isinstance(said, Event):
            return said
        self._ended = True
        result, error = said
        if error is not None:
            raise error
        self._result = read_result(self._command, result)
        raise StopIteration

    @property
    def result(self) -> Any:
        """What the request came to; reads the rest of the events if need be. Raises as a call does."""
        for _ in self:
            pass
        return self._result

    def close(self) -> None:
        """Cancel the request if it is still under way."""
        if not self._ended:
            self._ended = True
            self._engine.cancel(self._number)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
