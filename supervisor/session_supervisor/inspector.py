"""Looks at workers from outside, in a thread of its own: what the kernel says of them, not they.

Reading a process's private memory takes the kernel most of a millisecond, walking a scratch folder
any time at all; neither may hold up the event loop. The inspector measures, the crew decides. Only
workers that have done something since they were last looked at are looked at again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from session_supervisor.handle import WorkerHandle
from session_supervisor.os_facts import private_memory, processes_of_session
from session_supervisor.reactor import Reactor
from session_supervisor.states import BUSY
from session_supervisor.timers import Timer

_MOST_OF_A_CORE = 0.1
"""Share of one core's time the inspector takes at most, however many workers there are."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """``memory``: bytes of private memory of the interpreter itself. ``processes``: itself and what it
    started. ``scratch``: bytes in its session's scratch folder."""

    memory: int
    processes: int
    scratch: int


@dataclass(frozen=True, slots=True)
class _Job:
    """``regular``: the next look comes when this one is done."""

    subjects: list[tuple[WorkerHandle, Path]]
    regular: bool


@dataclass(frozen=True, slots=True)
class _Question:
    workers: list[WorkerHandle]
    answer: Callable[[dict[WorkerHandle, int]], None]


Measured = Callable[[WorkerHandle, Measurement], None]


class Inspector:
    """A worker is measured when it is first watched, then every ``interval`` seconds if it was at work."""

    def __init__(self, reactor: Reactor, interval: float) -> None:
        self._reactor = reactor
        self._interval = interval
        self._watched: dict[WorkerHandle, tuple[Path, Measured]] = {}
        self._seen: dict[WorkerHandle, int] = {}
        self._jobs: queue.SimpleQueue[_Job | _Question | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._timer: Timer | None = None

    def watch(self, worker: WorkerHandle, scratch: Path, measured: Measured) -> None:
        """Have ``measured`` told of ``worker``, in the loop, until :meth:`forget`."""
        self._watched[worker] = (scratch, measured)
        self._hand_over([worker])
        if self._timer is None:
            self._timer = self._reactor.call_later(self._interval, self._look)

    def ask(self, workers: Sequence[WorkerHandle], answer: Callable[[dict[WorkerHandle, int]], None]) -> None:
        """Have ``answer`` told, in the loop, the private memory of those of ``workers`` that live."""
        if workers:
            self._start()
            self._jobs.put(_Question(list(workers), answer))
        else:
            answer({})

    def forget(self, worker: WorkerHandle) -> None:
        self._watched.pop(worker, None)
        self._seen.pop(worker, None)

    def stop(self) -> None:
        """Measure nothing any more; the thread has ended when this returns."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _look(self) -> None:
        """Hand the thread whoever has something new about him; the answer brings the next look."""
        self._timer = None
        if not self._watched:
            return
        due = [one for one in self._watched if one.state == BUSY or self._seen.get(one) != one.served]
        if due:
            self._hand_over(due, regular=True)
        else:
            self._timer = self._reactor.call_later(self._interval, self._look)

    def _hand_over(self, workers: list[WorkerHandle], *, regular: bool = False) -> None:
        for worker in workers:
            self._seen[worker] = worker.served
        self._start()
        self._jobs.put(_Job([(worker, self._watched[worker][0]) for worker in workers], regular))

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="inspector", daemon=True)
            self._thread.start()

    def _report(self, job: _Job, results: list[tuple[WorkerHandle, Measurement]], took: float) -> None:
        for worker, measurement in results:
            watched = self._watched.get(worker)
            if watched is not None:
                watched[1](worker, measurement)
        if job.regular and self._timer is None:
            self._timer = self._reactor.call_later(max(self._interval, took / _MOST_OF_A_CORE), self._look)

    # -- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _Question):
                self._answer(job)
                continue
            began = time.monotonic()
            results = []
            for worker, scratch in job.subjects:
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    results.append((worker, measure(worker.pid, scratch)))
            report = functools.partial(self._report, job, results, time.monotonic() - began)
            self._reactor.call_from_thread(report)

    def _answer(self, question: _Question) -> None:
        held: dict[WorkerHandle, int] = {}
        for worker in question.workers:
            with contextlib.suppress(psutil.Error):
                held[worker] = private_memory(worker.pid)
        self._reactor.call_from_thread(functools.partial(question.answer, held))


def measure(pid: int, scratch: Path) -> Measurement:
    """One look at the worker ``pid``. Raises ``psutil.Error`` if it is gone."""
    return Measurement(private_memory(pid), processes_of_session(pid), folder_size(scratch))


def folder_size(folder: str | os.PathLike[str]) -> int:
    """Bytes of every file below ``folder``; links are not followed, what vanishes is not counted."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        total += folder_size(entry)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
                except OSError:
                    continue
    except OSError:
        return 0
    return total
