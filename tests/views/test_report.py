"""``bridge-cli report``: what it reads, what it counts, what it refuses and what it leaves out."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspy_bridge.client import Client, CommandFailed
from dspy_bridge.views import figures
from dspy_bridge.views.facts import Facts, Stage, gather
from dspy_bridge.views.report import report
from dspy_bridge.views.timeline import Names, timeline
from dspy_bridge.views.trace import NotATrace, Trace, from_document, parse
from tests.support.host import serving
from tests.support.traces import DAEMON, TraceBuilder, a_life


def life() -> Facts:
    return gather(from_document(a_life().document()))


def data_of(page: str) -> dict[str, Any]:
    """The block of data as a browser reads it."""
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    found: dict[str, Any] = json.loads(block)
    return found


def report_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dspy_bridge.cli", "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [True, False])
def test_a_file_and_a_daemons_answer_say_the_same(closed: bool) -> None:
    trace = a_life()
    read = parse(trace.lines(closed=closed).encode())
    answered = parse(json.dumps(trace.document()).encode())
    assert read.events == answered.events == trace.events
    assert (read.daemon, read.cut, answered.cut) == (DAEMON, not closed, False)
    assert answered.about["boot_id"] == "0123456789abcdef"


def test_of_a_file_cut_within_an_event_everything_before_it_is_read() -> None:
    trace = a_life()
    whole = trace.lines(closed=False)
    read = parse(whole[: whole.rindex('"ts"')].encode())
    assert read.cut
    assert read.events == trace.events[:-1]
    assert any("ends in the middle" in note for note in data_of(report(read, "a file"))["notes"])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "this is no JSON"),
        (b"\x00\xff\x7fELF", "this is no JSON"),
        (b"hello", "this is no JSON"),
        (b'{"a": 1}', "no traceEvents"),
        (b'"text"', "no traceEvents"),
        (b"[]", "not of a dspy-bridge daemon"),
        (b"[1, 2]", "event 1 is not one of a trace"),
        (b'[{"ph":"X","name":"other","pid":1,"ts":5,"dur":1}]', "not of a dspy-bridge daemon"),
        (b'[{"ph":"X","ts":"soon"}]', "event 1 has a ts"),
        (b'[{"ph":"X","args":[]}]', "event 1 has args"),
        (b'[{"ph":"M"},\n{"ph" nonsense},\n{"ph":"M"},\n', "line 2 is no JSON"),
    ],
)
def test_what_is_not_a_trace_of_ours_is_refused_with_the_reason(data: bytes, said: str, folder: Path) -> None:
    with pytest.raises(NotATrace, match=re.escape(said)):
        parse(data)
    file = folder / "trace.json"
    file.write_bytes(data)
    done = report_cli("--trace", str(file), "-o", str(folder / "r.html"))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "r.html").exists()


def test_wrong_usage_is_told(folder: Path) -> None:
    trace = folder / "t.json"
    trace.write_text(a_life().lines())
    absent = report_cli("--trace", str(folder / "none"))
    assert (absent.returncode, "none cannot be read" in absent.stderr) == (2, True)
    both = report_cli("--trace", str(trace), "--socket", "s")
    assert (both.returncode, "give one" in both.stderr) == (2, True)
    nowhere = report_cli("--trace", str(trace), "-o", str(folder / "no" / "r.html"))
    assert (nowhere.returncode, "cannot be written" in nowhere.stderr) == (2, True)
    silent = report_cli("--socket", str(folder / "none"), "-o", str(folder / "r.html"))
    assert (silent.returncode, "no daemon listens" in silent.stderr) == (3, True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e15, 1e15) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=3,
)
ARGS = ("session", "end", "running", "outcome", "queued_ms", "number", "input_tokens", "cache_hit", "error", "MiB")
EVENT = st.fixed_dictionaries(
    {"ph": st.sampled_from(["X", "i", "C", "b", "e", "M", "?"])},
    optional={
        "cat": st.sampled_from(["worker", "request", "lm", "session", "queue"]) | JSON,
        "name": st.sampled_from(["spare", "crashed", "memory", "session a"]) | JSON,
        "args": st.dictionaries(st.sampled_from(ARGS), JSON, max_size=5),
        **{name: st.integers(0, 2**50) | st.floats(0, 1e15) for name in ("ts", "dur", "pid", "tid")},
    },
)


@given(st.lists(EVENT, max_size=12))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_an_event_holds_there_is_a_page(events: list[dict[str, Any]]) -> None:
    trace = TraceBuilder()
    trace.events += events
    data_of(report(parse(json.dumps(trace.events).encode()), "strange"))


def test_events_of_other_tools_are_passed_over() -> None:
    trace = a_life()
    count = len(gather(from_document(trace.document())).requests)
    trace.events += [{"ph": "X", "cat": "theirs", "name": "?", "pid": 1, "ts": trace.events[-1]["ts"]}, {"ph": "q"}]
    trace.events.append({"ph": "X", "cat": "request", "name": 5, "pid": 1, "ts": trace.events[2]["ts"], "args": {}})
    assert len(gather(from_document(trace.document())).requests) == count + 1


# -- counting ------------------------------------------------------------------------------------


def test_latency_is_counted_per_command_waiting_included() -> None:
    execute, predict = figures.commands(life())
    assert execute == ["execute_program", 13, 3, 35.0, 80.0, 100.0, 100.0, 0.0, 0.0]
    assert predict == ["call_predict", 10, 0, 60.0, 68.0, 68.0, 68.0, 10.0, 18.0]


def test_errors_are_counted_by_code() -> None:
    assert {row[0]: row[1:] for row in figures.errors(life())} == {
        "execution_error": [1, "execute_program (1)", "carol (1)"],
        "worker_crashed": [1, "execute_program (1)", "alice (1)"],
        "overloaded": [1, "execute_program (1)", "carol (1)"],
    }


def test_calls_to_models_are_summed() -> None:
    assert figures.models(life()) == [["scripted", 10, 0, 4, 1_000, 100, 20.0, 20.0, 200.0]]


def test_sessions_are_told_with_what_befell_them() -> None:
    facts = life()
    rows = {row[0]: row[1:] for row in figures.sessions(facts, figures.memory_by_session(facts))}
    assert rows["alice"] == [11, 1, 35.0, 100.0, 445.0, 2, 1, 0, 0, 13.75]
    assert rows["bob"][5:9] == [2, 0, 1, 0]
    assert rows["carol"] == [2, 2, 80.0, 80.0, 80.0, 1, 0, 0, 1, None]


def test_every_request_is_in_one_bar_of_the_histogram() -> None:
    facts = life()
    bars = figures.histogram(facts)
    assert sum(good + bad for *_, good, bad in bars) == len(facts.requests)
    assert sum(bad for *_, bad in bars) == 3
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bars))
    for request in facts.requests:
        assert any(low <= request.latency < high for low, high, *_ in bars)
    assert figures.histogram(Facts()) == []


def test_memory_falls_to_nothing_only_while_no_worker_is_there() -> None:
    memory = figures.memory_by_session(life())
    assert 0.0 not in [value for _, value in memory["bob"]]  # its successor was there at once
    gone = [at for at, value in memory["alice"] if value == 0.0]
    assert len(gone) == 1
    held = Facts(stages=[Stage(1, 0, 10, "session s", "s", None, True), Stage(2, 0, 10, "session s", "s", None, True)])
    held.memory = {1: [(1.0, 5.0), (3.0, 6.0)], 2: [(2.0, 7.0)], 3: [(2.0, 100.0)]}
    assert figures.memory_by_session(held) == {"s": [(1.0, 5.0), (2.0, 12.0), (3.0, 13.0)]}


def test_waits_are_drawn_as_they_were_at_once() -> None:
    trace = TraceBuilder()
    trace.request(1, "s", 100, 10, queued=50)
    trace.request(1, "s", 120, 10, queued=60)
    trace.request(1, "s", 130, 10, queued=0.5)  # on its way, and not in a queue
    trace.request(None, "s", 70, 40, outcome="timeout")  # waited for nothing
    begin = 50
    waiting = [(at + begin, count) for at, count in figures.waiting(gather(from_document(trace.document())))]
    assert waiting == [(50, 1), (60, 2), (70, 3), (100, 2), (110, 1), (120, 0)]


def test_a_mark_without_a_worker_belongs_to_the_one_of_its_session_that_ended_then() -> None:
    trace = TraceBuilder()
    for pid, until in ((1, 200), (2, 400), (3, 600)):
        trace.worker(pid, "s", until - 100, until)
    trace.worker(4, "other", 100, 401)
    trace.mark("hibernated", None, 401, "s")
    trace.mark("hibernated", None, 10, "nobody's")
    rows, _ = timeline(gather(from_document(trace.document())), Names(), Names(), Names())
    assert {row["pid"]: len(row["marks"]) for row in rows} == {1: 0, 2: 1, 3: 0, 4: 0}


def test_rows_of_one_session_are_beside_each_other() -> None:
    rows, _ = timeline(life(), Names(), Names(), Names())
    assert [row["pid"] for row in rows] == [201, 204, 202, 205, 203, None]


def test_a_thinned_series_keeps_its_heights() -> None:
    series = [(float(number), 100.0 if number == 777 else 1.0) for number in range(10_000)]
    thin, left_out = figures.thinned(series, 10_000.0)
    assert left_out
    assert len(thin) <= 500
    assert (777.0, 100.0) in thin
    assert thin == sorted(thin)
    assert figures.thinned(series[:100], 100.0) == (series[:100], False)


def test_an_empty_trace_makes_a_page() -> None:
    assert data_of(report(from_document(TraceBuilder().document()), "nothing"))["workers"] == []


# -- leaving out -------------------------------------------------------------------------------


def a_big_trace(requests: int, workers: int) -> Trace:
    trace = TraceBuilder()
    for pid in range(workers):
        trace.worker(1_000 + pid, f"session-{pid % 50}", pid * 10 + 60, pid * 10 + 10_000)
    for number in range(requests):
        outcome = "timeout" if number % 1_000 == 0 else "success"
        trace.request(1_000 + number % workers, "session-1", 100 + number, 1 + number % 7, outcome=outcome)
    return from_document(trace.document())


def test_a_big_trace_is_drawn_in_part_counted_in_whole_and_the_page_says_so() -> None:
    data = data_of(report(a_big_trace(60_000, 1_500), "big"))
    assert len(data["workers"]) == 1_000
    drawn = [request for worker in data["workers"] for request in worker["requests"]]
    assert len(drawn) == 40_000
    assert data["tables"]["commands"][0][1] == 60_000
    assert any("1,000 of 1,500 workers" in note for note in data["notes"])
    assert any("40,000 of 60,000 requests" in note for note in data["notes"])


def test_what_failed_is_drawn_before_anything_else() -> None:
    facts = gather(a_big_trace(60_000, 10))
    rows, _ = timeline(facts, Names(), Names(), outcomes := Names())
    timeouts = outcomes.number("timeout")
    assert sum(request[5] == timeouts for row in rows for request in row["requests"]) == 60


def test_a_small_trace_has_nothing_to_confess() -> None:
    assert data_of(report(from_document(a_life().document()), "small"))["notes"] == []


# -- of a real daemon ------------------------------------------------------------------------------


def _work(client: Client) -> None:
    """Two sessions; one answers and fails, one is recycled and loses its interpreter."""
    client.call("configure_lm", {"model": "scripted"}, session="a")
    client.call("create_program", {"id": "qa", "signature": "q -> a"}, session="a")
    client.call("execute_program", {"program_id": "qa", "inputs": {"q": "the planted secret"}}, session="a")
    with pytest.raises(CommandFailed):
        client.call("execute_program", {"program_id": "none", "inputs": {}}, session="a")
    pid = client.call("start_session", session="b")["worker_pid"]
    client.call("recycle_session", session="b")
    (worker,) = client.call("session_info", session="b")["workers"]
    assert worker["pid"] != pid
    os.kill(worker["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while client.call("session_info", session="b")["recoveries"] == 0:
        assert time.monotonic() < deadline


def _check(data: dict[str, Any]) -> None:
    assert data["tables"]["errors"][0][:2] == ["program_not_found", 1]
    sessions = {row[0]: row for row in data["tables"]["sessions"]}
    assert sessions["a"][1:3] == [4, 1]
    assert sessions["b"][7:9] == [1, 1]  # one crash, one recycle
    marks = {mark[1] for row in data["workers"] for mark in row["marks"]}
    assert marks == {"crashed", "recycled"}
    stages = {stage[2] for row in data["workers"] for stage in row["stages"]}
    assert {"starting", "spare", "session a", "session b"} <= stages
    assert "planted" not in json.dumps(data)


def test_the_report_of_a_running_daemon(folder: Path) -> None:
    with serving(folder / "s") as path:
        with Client.connect(path) as client:
            _work(client)
            done = report_cli("--socket", path, "-o", str(folder / "r.html"))
            assert done.returncode == 0, done.stderr
        data = data_of((folder / "r.html").read_text())
        _check(data)
        now = dict(data["now"])
        assert now["sessions"].startswith("2 (")
        assert now["requests since the start"] == "4"
        assert data["about"]["server_version"]
        assert data["notes"] == []
        # What a daemon answers can be kept and read later.
        kept = subprocess.run(
            [sys.executable, "-m", "dspy_bridge.cli", "send", "get_trace", "--socket", path, "--no-start"],
            capture_output=True,
            timeout=30,
            check=True,
        )
        (folder / "t.json").write_bytes(kept.stdout)
        assert report_cli("--trace", str(folder / "t.json"), "-o", str(folder / "r.html")).returncode == 0
        _check(data_of((folder / "r.html").read_text()))


@pytest.mark.parametrize("ended", [True, False])
def test_the_report_of_a_trace_file_also_of_a_killed_daemon(ended: bool, folder: Path) -> None:
    trace = folder / "t.json"
    with Client.spawn(["--trace-file", str(trace)]) as client:
        _work(client)
        client.call("end_session", session="a")
        client.call("end_session", session="b")
        deadline = time.monotonic() + 20
        while trace.read_text().count('"session ended"') < 2:
            assert time.monotonic() < deadline, "the file was not written in time"
        if not ended:
            assert client.process is not None
            client.process.kill()
    done = report_cli("--trace", str(trace), "-o", str(folder / "r.html"))
    assert done.returncode == 0, done.stderr
    data = data_of((folder / "r.html").read_text())
    _check(data)
    assert data["tables"]["models"][0][:3] == ["scripted", 1, 0]
    assert bool(data["notes"]) is not ended


def test_records_a_daemon_no_longer_has_are_confessed() -> None:
    stats = {
        "uptime_s": 5.0,
        "requests": {"total": 1_000, "waiting": 0},
        "sessions": {"total": 1, "by_state": {"live": 1}},
        "workers": {"live": 1, "spare": 2},
        "memory_mb": {"daemon": 30.0, "template": None},
    }
    (note,) = data_of(report(from_document(a_life().document()), "a daemon", stats=stats))["notes"]
    assert "23 of 1,000 requests" in note


# -- the page ------------------------------------------------------------------------------------


def test_the_page_stands_alone(folder: Path) -> None:
    trace = folder / "t.json"
    trace.write_text(a_life().lines())
    done = report_cli("--trace", str(trace), "-o", str(folder / "r.html"))
    assert done.returncode == 0, done.stderr
    page = (folder / "r.html").read_text()
    assert "{{" not in page
    assert not re.search(r"(?:src|href)=|@import|url\(", page)
    assert set(re.findall(r"https?://[^\s\"]+", page)) == {"http://www.w3.org/2000/svg"}  # a name, nothing to fetch
    assert "default-src 'none'" in page


HOSTILE = "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>"


def test_texts_of_a_trace_cannot_leave_their_block() -> None:
    page = report(from_document(a_life((HOSTILE, "<!--", "\u2028]]>&lt;")).document()), HOSTILE)
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "<!--" not in page
    assert data_of(page)["sessions"][0] == HOSTILE
