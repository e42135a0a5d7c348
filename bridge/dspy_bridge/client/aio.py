"""The Python client for asyncio: as :mod:`.bridge`, with everything that waits awaited.

    async with dspy_bridge.aconnect() as bridge, bridge.session(lm="openai/gpt-4o-mini") as session:
        qa = await session.program("question -> answer")
        print((await qa(question="Why is the sky blue?")).answer)

Cancelling a task cancels its request at the daemon. Coroutine functions may be tools and models.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from types import TracebackType
from typing import Any

from dspy_bridge.client.commands import LM, Event, Execution, SessionCommands, read_result
from dspy_bridge.client.engine import Engine, OnEvent
from dspy_bridge.client.hosted import read_lm


def aconnect(
    socket: str | os.PathLike[str] | None = None, *, args: Sequence[str] = (), stderr: int | None = None
) -> AsyncBridge:
    """As :func:`dspy_bridge.connect`, for ``async with``."""
    return AsyncBridge(socket, args, stderr)


class AsyncBridge:
    """A connection to a daemon, from the event loop it was entered in."""

    def __init__(self, socket: str | os.PathLike[str] | None, args: Sequence[str], stderr: int | None) -> None:
        self._wanted = (socket, args, stderr)
        self._opened: Engine | None = None

    @property
    def _engine(self) -> Engine:
        if self._opened is None:
            raise RuntimeError("enter it first: async with dspy_bridge.aconnect() as bridge")
        return self._opened

    @property
    def ready(self) -> dict[str, Any]:
        """What the daemon said of itself."""
        return self._engine.ready

    async def call(
        self,
        command: str,
        args: Mapping[str, Any] | None = None,
        *,
        session: str | None = None,
        timeout: float | None = None,
        on_event: OnEvent = lambda _event, _data: None,
    ) -> Any:
        """See :meth:`dspy_bridge.client.bridge.Bridge.call`; ``on_event`` is called in the loop."""
        call = _Call(self._engine, command, args or {}, session, timeout)
        try:
            while (event := await call.next()) is not None:
                on_event(event.event, event.data)
            return call.result
        finally:
            call.close()

    def session(self, session_id: str | None = None, *, lm: LM | None = None, **options: Any) -> AsyncSession:
        """A new session, begun and ended by ``async with``. ``options``: arguments of ``start_session``."""
        return AsyncSession(self, session_id, lm, options)

    async def sessions(self) -> list[dict[str, Any]]:
        """Every session of the daemon."""
        listed: list[dict[str, Any]] = (await self.call("list_sessions"))["sessions"]
        return listed

    async def close(self) -> int | None:
        """Let go; a private daemon ends, and its exit code is returned. Idempotent."""
        return await asyncio.to_thread(self._engine.close)

    async def __aenter__(self) -> AsyncBridge:
        opener = concurrent.futures.ThreadPoolExecutor(1, "dspy-bridge-opener")
        opening = opener.submit(Engine.to, *self._wanted)
        opener.shutdown(wait=False)
        try:
            self._opened = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise
        self._opened.loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()


def _close_unwanted(opening: concurrent.futures.Future[Engine]) -> None:
    """Whoever wanted it had gone before it was there."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class _Call:
    """One request, and what is heard of it, in the loop."""

    def __init__(
        self, engine: Engine, command: str, args: Mapping[str, Any], session: str | None, timeout: float | None
    ) -> None:
        self.result: Any = None
        self.ended = False
        self._engine = engine
        said: asyncio.Queue[Event | tuple[Any, Exception | None]] = asyncio.Queue()
        self._said = said
        loop = asyncio.get_running_loop()

        def put(what: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(said.put_nowait, what)

        self._number = engine.submit(
            command,
            args,
            lambda result, error: put((result, error)),
            lambda event, data: put(Event(event, data)),
            session=session,
            timeout=timeout,
        )

    async def next(self) -> Event | None:
        """The next event; None once ``result`` is there. Raises as a call does."""
        said = await self._said.get()
        if isinstance(said, Event):
            return said
        self.ended = True
        result, error = said
        if error is not None:
            raise error
        self.result = result
        return None

    def close(self) -> None:
        """Cancel the request if it is still under way."""
        if not self.ended:
            self.ended = True
            self._engine.cancel(self._number)


class AsyncSession(SessionCommands[Awaitable[Any]]):
    """One session; see :class:`dspy_bridge.client.bridge.Session`."""

    def __init__(self, bridge: AsyncBridge, session_id: str | None, lm: LM | None, options: Mapping[str, Any]) -> None:
        super().__init__(bridge._engine, session_id or "")
        self._bridge = bridge
        self._lm = lm
        self._options = options

    def call(
        self, command: str, args: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Awaitable[Any]:
        return self._bridge.call(command, args, session=self.id, timeout=timeout, on_event=self._heard)

    async def program(self, signature: Any = None, *, id: str | None = None, **options: Any) -> AsyncProgram:
        """Make a program; see :meth:`dspy_bridge.client.bridge.Session.program`."""
        args = self._program_args(signature, options)
        made = await self.call("create_program", {**args, **({"id": id} if id is not None else {})})
        return AsyncProgram(self, made["program_id"])

    def __getitem__(self, program_id: str) -> AsyncProgram:
        """A program the session has already."""
        return AsyncProgram(self, program_id)

    async def stream(
        self, command: str, args: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> AsyncIterator[Event | Execution]:
        """The events of one command as they come; what an execution came to is the last item. Leaving early
        (with ``contextlib.aclosing``, or by being cancelled) cancels it."""
        call = _Call(self._engine, command, args or {}, self.id, timeout)
        try:
            while (event := await call.next()) is not None:
                self._heard(event.event, event.data)
                yield event
            yield read_result(command, call.result)
        finally:
            call.close()

    async def end(self) -> None:
        """End it and everything of it."""
        self._engine.forget_session(self.id)
        await self.call("end_session")

    async def __aenter__(self) -> AsyncSession:
        config, function = read_lm(self._lm)
        options = {**self._options, **({} if config is None else {"lm": config})}
        self.id = (await self._bridge.call("start_session", options, session=self.id or None))["session_id"]
        self._begun(function)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.end()


class AsyncProgram:
    """A program of a session: await a call with its inputs."""

    def __init__(self, session: AsyncSession, program_id: str) -> None:
        self.id = program_id
        self._session = session

    async def __call__(self, **inputs: Any) -> Execution:
        return await self.run(inputs)

    async def run(self, inputs: Mapping[str, Any], *, timeout: float | None = None, **options: Any) -> Execution:
        """As calling it, with ``config``, ``lm``, ``lenient`` for this execution alone."""
        args = self._session._execution_args(self.id, inputs, options)
        return Execution.read(await self._session.call("execute_program", args, timeout=timeout))

    def stream(self, **inputs: Any) -> AsyncIterator[Event | Execution]:
        """Run it, and iterate over what it says meanwhile and at last."""
        args = self._session._execution_args(self.id, inputs, {"stream": True})
        return self._session.stream("execute_program", args)
