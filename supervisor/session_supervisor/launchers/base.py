"""The contract every launcher keeps: who calls what, and who owns what.

The pool asks for a process with :meth:`Launcher.launch` and hands over two descriptors, the child's
ends of the channel and of the log pipe. The launcher brings about one process that runs
:func:`session_supervisor.worker.run` on them, and says its pid. From then on the process is this
process's child (so that the reaper sees it end) and none of the launcher's business.

One contract suite (``tests/contract``) runs against every launcher.
"""

from __future__ import annotations

import abc
import socket
from collections.abc import Callable
from dataclasses import dataclass

from session_supervisor.failures import WorkerStartFailed


@dataclass(frozen=True, slots=True)
class Application:
    """What workers run, as ``"package.module:attribute"`` references.

    ``serve(channel, gate)`` serves one worker's channel until its end. ``preload()`` imports and
    warms whatever every worker needs, in the template. ``verify()`` returns, in words, what would
    make a fork of this process share state it must not.
    """

    serve: str
    preload: str
    verify: str


Launched = Callable[["int | WorkerStartFailed"], None]
"""Called exactly once per launch: with the pid, or with why there is none."""


class Launcher(abc.ABC):
    """Brings about worker processes. All calls and callbacks happen in the reactor's thread."""

    @abc.abstractmethod
    def start(self, on_ready: Callable[[], None], on_failed: Callable[[str], None]) -> None:
        """Called once by the supervisor before anything else.

        Exactly one of the two is called: ``on_ready`` when launches can succeed, or ``on_failed``
        with a text for the operator when they never will (a broken preload). Failures after that
        are failures of single launches.
        """

    @abc.abstractmethod
    def launch(self, channel: socket.socket, log: int, launched: Launched) -> None:
        """Called by the pool. Takes ownership of both descriptors whatever happens.

        ``launched`` may be called before this returns. After a failure nothing runs on the
        descriptors that the channel's end would not make leave.
        """

    @abc.abstractmethod
    def stop(self) -> None:
        """Called once at the end: no launch succeeds any more, helpers of the launcher leave."""

    @abc.abstractmethod
    def describe(self) -> dict[str, object]:
        """Facts for statistics: at least ``{"kind": ...}``."""
