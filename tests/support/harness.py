"""A supervisor over the toy application, driven step by step by a test."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from session_supervisor.failures import DeathCertificate, Failure
from session_supervisor.launchers.base import Application, Launcher
from session_supervisor.launchers.fork import ForkLauncher
from session_supervisor.launchers.spawn import SpawnLauncher
from session_supervisor.options import SupervisorOptions
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Reaper
from session_supervisor.request import Request
from session_supervisor.session import Session
from session_supervisor.store import Store
from session_supervisor.supervisor import Supervisor

TOY = "tests.support.toy_app"


def application(preload: str = "preload", verify: str = "verify") -> Application:
    return Application(f"{TOY}:serve", f"{TOY}:{preload}", f"{TOY}:{verify}")


def fork(reactor: Reactor, reaper: Reaper, app: Application, **kwargs: Any) -> Launcher:
    return ForkLauncher(reactor, reaper, app, **kwargs)


def spawn(reactor: Reactor, reaper: Reaper, app: Application, **kwargs: Any) -> Launcher:
    return SpawnLauncher(app, **kwargs)


def add(total: bytes, share: bytes) -> bytes:
    """The toy application's tallies are decimal numbers."""
    return str(int(total) + int(share)).encode()


class RecordingSink:
    """Keeps what a request was answered, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.full = False
        self.waiting: list[Callable[[], None]] = []

    def event(self, body: bytes) -> bool:
        self.heard.append(("event", body.decode()))
        return not self.full

    def trace(self, body: bytes) -> None:
        self.heard.append(("trace", body))

    def output(self, data: bytes) -> None:
        self.heard.append(("output", data))

    def retried(self, failure: Failure) -> None:
        self.heard.append(("retried", failure))

    def reply(self, body: bytes) -> None:
        self.heard.append(("reply", body.decode()))

    def fail(self, failure: Failure) -> None:
        self.heard.append(("fail", failure))

    def on_writable(self, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    @property
    def terminal(self) -> list[tuple[str, Any]]:
        return [one for one in self.heard if one[0] in ("reply", "fail")]

    @property
    def answer(self) -> Any:
        assert len(self.terminal) == 1, self.heard
        return self.terminal[0][1]

    @property
    def output_bytes(self) -> bytes:
        return b"".join(data for kind, data in self.heard if kind == "output")


class Harness:
    """``start()`` first; everything that waits is bounded."""

    def __init__(
        self,
        launcher: Callable[..., Launcher] = fork,
        options: SupervisorOptions | None = None,
        app: Application | None = None,
        state: Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.errors: list[BaseException] = []
        self.reactor = Reactor(self.errors.append)
        self.died: list[DeathCertificate] = []
        self.printed: list[bytes] = []
        self.lives: list[tuple[Any, ...]] = []
        """What the supervisor told of sessions and workers, in order."""
        app = app or application()
        self.supervisor = Supervisor(
            self.reactor,
            lambda reactor, reaper: launcher(reactor, reaper, app, **kwargs),
            options or SupervisorOptions(),
            self,
            add=add,
            store=None if state is None else Store(state, self.reactor),
        )
        self.ready = False
        self.failed: str | None = None
        self.sinks: list[RecordingSink] = []

    def session_printed(self, session_id: str, data: bytes) -> None:
        self.printed.append(data)

    def worker_died(self, session_id: str, certificate: DeathCertificate) -> None:
        self.died.append(certificate)
        self.told("worker_died", session_id, certificate.pid)

    def told(self, what: str, *facts: Any) -> None:
        self.lives.append((what, *facts))

    def session_opened(self, session_id: str, *, restored: bool) -> None:
        self.told("session_opened", session_id, restored)

    def session_hibernated(self, session_id: str, workers: Sequence[int]) -> None:
        self.told("session_hibernated", session_id, *workers)

    def session_ended(self, session_id: str) -> None:
        self.told("session_ended", session_id)

    def worker_launched(self, pid: int, asked_for: float) -> None:
        assert asked_for <= time.monotonic()
        self.told("worker_launched", pid)

    def worker_ready(self, pid: int) -> None:
        self.told("worker_ready", pid)

    def worker_assigned(self, pid: int, session_id: str) -> None:
        self.told("worker_assigned", pid, session_id)

    def worker_replaced(self, pid: int, session_id: str) -> None:
        self.told("worker_replaced", pid, session_id)

    def worker_ended(self, certificate: DeathCertificate) -> None:
        self.told("worker_ended", certificate.pid)

    def start(self) -> Harness:
        def ready() -> None:
            self.ready = True

        def failed(reason: str) -> None:
            self.failed = reason

        self.supervisor.start(ready, failed)
        self.until(lambda: self.ready or self.failed is not None, bound=30)
        return self

    def until(self, condition: Callable[[], Any], bound: float = 10.0) -> None:
        deadline = time.monotonic() + bound
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            self.reactor.run_once(0.05)
        assert not self.errors, self.errors

    def turn(self, seconds: float) -> None:
        """Let the loop run for a while, to see that something does not happen."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.reactor.run_once(0.01)

    def open(self, name: str = "s", birth: bytes = b"birth", **options: Any) -> Session:
        """A session; ``options`` are those of :class:`SessionOptions`."""
        given = dataclasses.replace(self.supervisor.options.session, **options)
        return self.supervisor.open(name, lambda folder: birth, options=given, charter=birth)

    def send(
        self, session: Session, text: str, *, timeout: float | None = None, mutating: bool = True, retries: int = 0
    ) -> tuple[Request, RecordingSink]:
        sink = RecordingSink()
        self.sinks.append(sink)
        request = self.supervisor.submit(
            session, text.encode(), sink, mutating=mutating, timeout=timeout, label=text.split(" ")[0], retries=retries
        )
        return request, sink

    def ask(self, session: Session, text: str, *, timeout: float | None = None, bound: float = 10.0) -> Any:
        _, sink = self.send(session, text, timeout=timeout)
        self.until(lambda: sink.terminal, bound)
        return sink.answer

    def close(self) -> None:
        done: list[bool] = []
        self.supervisor.drain(lambda: done.append(True))
        self.until(lambda: done, bound=20)
        self.reactor.close()
        for sink in self.sinks:
            assert len(sink.terminal) == 1, f"not exactly one terminal reply: {sink.heard}"
