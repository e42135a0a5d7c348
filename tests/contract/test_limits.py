"""What a session may use, what happens when it wants more, and how memory that grows is dealt with."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from session_supervisor.failures import LimitExceeded, WorkerCrashed
from session_supervisor.limits import Limits
from session_supervisor.options import RecyclePolicy, SupervisorOptions
from session_supervisor.session import Session
from tests.support.harness import Harness

MIB = 1 << 20


@pytest.fixture
def h() -> Iterator[Harness]:
    harness = Harness(options=SupervisorOptions(spares=1, measure_every=0.1)).start()
    yield harness
    harness.close()


def bounded(h: Harness, **limits: float) -> Session:
    return h.open(birth=b"limits " + repr(limits).encode(), limits=Limits(**limits))  # type: ignore[arg-type]


def fresh_after(h: Harness, session: Session, ask: Callable[[], object]) -> object:
    """What the request was answered, once it is sure that a fresh interpreter serves the session."""
    h.ask(session, "incr")
    before = h.ask(session, "pid")
    answer = ask()
    assert h.ask(session, "pid") != before
    assert h.ask(session, "incr") == "2"
    return answer


def test_memory_is_refused_in_the_moment(h: Harness) -> None:
    session = bounded(h, memory=64 * MIB)
    assert h.ask(session, "hold 16") == "held"
    assert fresh_after(h, session, lambda: h.ask(session, "hold 400")) == "MemoryError"


def test_processor_time_is_refused_in_the_moment(h: Harness) -> None:
    session = bounded(h, cpu=0.3)
    for _ in range(3):
        assert h.ask(session, "spin 0.2") == "spun"  # per request, not in all
    assert fresh_after(h, session, lambda: h.ask(session, "spin 30")) == "CpuExhausted"


def test_waiting_costs_no_processor_time(h: Harness) -> None:
    session = bounded(h, cpu=0.2)
    assert h.ask(session, "sleep 0.5") == "slept"


def test_code_that_hears_no_signal_is_ended_by_the_kernel(h: Harness) -> None:
    session = bounded(h, cpu=0.2)
    failure = fresh_after(h, session, lambda: h.ask(session, "spin-in-c", bound=20))
    assert isinstance(failure, LimitExceeded)
    assert failure.limit == "cpu"


def test_descriptors_are_refused_in_the_moment(h: Harness) -> None:
    session = bounded(h, open_files=64)
    assert h.ask(session, "open-files 20") == "opened"
    assert h.ask(session, "open-files 200") == "OSError"


def test_processes_are_refused_in_the_moment(h: Harness) -> None:
    session = bounded(h, processes=4)
    assert h.ask(session, "fork 2") == "forked"
    assert fresh_after(h, session, lambda: h.ask(session, "fork 9")) == "LimitReached"


@pytest.mark.alone  # a look that came while they were being started would stop the request
def test_processes_that_got_past_the_guard_are_seen_from_outside(h: Harness) -> None:
    session = h.open(limits=Limits(processes=3))  # the worker is not told: no guard inside
    assert h.ask(session, "fork 5") == "forked"
    h.until(lambda: session.refusal)
    refused = h.ask(session, "pid")
    assert isinstance(refused, LimitExceeded)
    assert refused.limit == "processes"
    assert h.ask(session, "incr") == "1"


def test_memory_that_got_past_the_guard_stops_the_request(h: Harness) -> None:
    session = h.open(limits=Limits(memory=64 * MIB))
    h.ask(session, "incr")
    refused = h.ask(session, "hold-on 100")
    assert isinstance(refused, LimitExceeded)
    assert refused.limit == "memory"
    assert h.ask(session, "incr") == "2"


def test_one_file_cannot_be_larger_than_the_scratch_folder_may_be(h: Harness) -> None:
    session = bounded(h, scratch=MIB)
    assert h.ask(session, f"scratch {session.folder} {2 * MIB}") == "OSError"


def test_a_scratch_folder_that_grew_too_large_is_emptied_and_the_session_told(h: Harness) -> None:
    session = bounded(h, scratch=MIB)
    h.ask(session, "incr")
    for _ in range(3):
        h.ask(session, f"scratch {session.folder} {MIB // 2}")
    h.until(lambda: session.refusal)
    refused = h.ask(session, "pid")
    assert isinstance(refused, LimitExceeded)
    assert refused.limit == "scratch"
    assert list(Path(session.folder).iterdir()) == []
    assert h.ask(session, "incr") == "2"


# -- memory that grows -----------------------------------------------------------------------------


def test_a_worker_that_has_grown_is_replaced_between_requests(h: Harness) -> None:
    session = h.open(recycle=RecyclePolicy(growth=32 * MIB))
    h.ask(session, "incr")
    h.until(lambda: session.workers[0].baseline)
    h.ask(session, "hold 8")
    pid = h.ask(session, "pid")
    h.turn(0.5)
    assert h.ask(session, "pid") == pid  # not for eight
    h.ask(session, "hold 80")
    h.until(lambda: session.recycles == 1)
    assert h.ask(session, "incr") == "2"
    h.until(lambda: session.workers[0].memory)
    assert session.workers[0].memory < 64 * MIB


def test_a_worker_is_not_cut_for_its_memory_while_it_works(h: Harness) -> None:
    session = h.open(recycle=RecyclePolicy(growth=32 * MIB))
    h.ask(session, "pid")
    h.until(lambda: session.workers[0].baseline)
    h.ask(session, "hold 80")
    assert h.ask(session, "sleep 0.6") == "slept"
    h.until(lambda: session.recycles == 1)


def test_a_limit_nobody_can_keep_is_damped_not_looped(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    session = h.open(recycle=RecyclePolicy(growth=1))
    with caplog.at_level(logging.WARNING, "session_supervisor.succession"):
        for _ in range(120):
            h.ask(session, "hold 4")
            h.turn(0.01)
    assert 3 <= session.recycles <= 6
    assert "interpreters in a row had to be replaced for their memory" in caplog.text
    assert h.ask(session, "echo still") == "still"


# -- death certificates ----------------------------------------------------------------------------


def test_a_death_certificate_says_what_is_known(h: Harness) -> None:
    session = h.open()
    h.ask(session, "hold 50")
    failure = h.ask(session, "exit 7")
    assert isinstance(failure, WorkerCrashed)
    certificate = failure.certificate
    assert (certificate.exit_code, certificate.signal, certificate.requests) == (7, None, 1)
    assert certificate.last_command == "exit"
    assert certificate.peak_memory_mb > 50
    assert certificate.cpu_s > 0
    assert certificate.hint is None


def test_a_kill_nobody_here_asked_for_is_hinted_at(h: Harness) -> None:
    failure = h.ask(h.open(), "kill-self")
    assert isinstance(failure, WorkerCrashed)
    assert "memory" in str(failure.certificate.hint)
    assert "memory" in str(failure)


def test_a_segfault_leaves_its_stack(h: Harness) -> None:
    failure = h.ask(h.open(), "segfault")
    assert isinstance(failure, WorkerCrashed)
    assert failure.certificate.signal == signal.SIGSEGV
    assert "Fatal Python error" in failure.certificate.last_output


# -- retries ---------------------------------------------------------------------------------------


def test_a_request_that_may_be_retried_runs_again_on_a_fresh_worker(h: Harness, folder: Path) -> None:
    session = h.open()
    _, sink = h.send(session, f"die-once {folder}/mark", retries=1)
    h.until(lambda: sink.terminal)
    assert sink.answer == "lived"
    assert [kind for kind, _ in sink.heard] == ["retried", "reply"]


def test_it_is_retried_once_only(h: Harness) -> None:
    session = h.open()
    _, sink = h.send(session, "exit 5", retries=1)
    h.until(lambda: sink.terminal)
    assert isinstance(sink.answer, WorkerCrashed)
    assert session.recoveries == 2


def test_a_request_that_was_stopped_is_not_retried(h: Harness) -> None:
    session = h.open()
    _, sink = h.send(session, "sleep 30", retries=1, timeout=0.2)
    h.until(lambda: sink.terminal)
    assert [kind for kind, _ in sink.heard] == ["fail"]
