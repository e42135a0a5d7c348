"""Spans of OpenTelemetry: what records become, and what a collector is sent."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.client import Client
from dspy_bridge.daemon.telemetry import Telemetry
from dspy_bridge.daemon.tracing import Asked, Span, Tracer
from tests.support.host import Host

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the `otel` extra")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from tests.support.collector import collecting  # noqa: E402

CLI = [sys.executable, "-m", "dspy_bridge.cli"]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ABOUT = {"server_version": "1", "boot_id": "b", "pid": 1}
ASKED = Asked(7, "mine", "execute_program", "s", 10.0, 10.5, 1, f"00-{TRACE}-{PARENT}-01")


class Mapping:
    """Records in, spans out."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self._telemetry = Telemetry(ABOUT, self._kept)
        self.tracer = Tracer()
        self.tracer.listen(self._telemetry.take)

    def inner(self, kind: str, name: str, parent: str | None, **args: Any) -> None:
        said = {"id": args.pop("id", "00000000000000aa"), "parent": parent, **args}
        self.tracer.record(Span(kind, name, 10.6, 10.7, 42, "s", said, ASKED))

    def spans(self) -> dict[str, Any]:
        self._telemetry.close()
        return {span.name: span for span in self._kept.get_finished_spans()}


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    made = Mapping()
    yield made
    made._telemetry.close()


def test_a_request_is_a_server_span_with_its_wait_and_its_work_below(mapping: Mapping) -> None:
    mapping.tracer.request(ASKED, 42, 12.0, "success")
    spans = mapping.spans()
    request, queue, work = spans["execute_program"], spans["queue"], spans["work"]
    assert (request.kind, request.status.status_code) == (SpanKind.SERVER, StatusCode.OK)
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert queue.parent.span_id == work.parent.span_id == request.context.span_id
    assert queue.end_time - queue.start_time == 500_000_000
    assert (queue.end_time, work.end_time) == (work.start_time, request.end_time)
    assert request.end_time - request.start_time == 2_000_000_000
    assert abs(request.end_time - time.time_ns() - (12 - time.monotonic()) * 1e9) < 1e9
    assert request.attributes["session.id"] == "s"
    assert request.attributes["dspy_bridge.outcome"] == "success"
    assert request.resource.attributes["service.name"] == "dspy-bridge"


def test_a_failed_request_says_so_by_its_code_and_one_that_never_ran_has_no_work(mapping: Mapping) -> None:
    asked = ASKED._replace(started=0.0, lane=0, traceparent=None)
    mapping.tracer.request(asked, 0, 12.0, "overloaded")
    spans = mapping.spans()
    assert spans.keys() == {"execute_program", "queue"}
    request = spans["execute_program"]
    assert (request.parent, request.status.status_code) == (None, StatusCode.ERROR)
    assert request.attributes["error.type"] == "overloaded"
    assert request.status.description is None


def test_what_a_program_does_hangs_together_though_children_end_first(mapping: Mapping) -> None:
    mapping.inner("lm", "openai/m", "00000000000000bb", input_tokens=3, output_tokens=4, cache_hit=False)
    mapping.inner("module", "Predict", None, id="00000000000000bb")
    mapping.inner("tool", "search", "00000000000000bb", id="00000000000000cc", error="ValueError")
    mapping.tracer.request(ASKED, 42, 12.0, "success")
    spans = mapping.spans()
    call, module, tool = spans["chat openai/m"], spans["Predict"], spans["execute_tool search"]
    assert call.parent.span_id == tool.parent.span_id == module.context.span_id == 0xBB
    assert module.parent.span_id == spans["work"].context.span_id
    assert {span.context.trace_id for span in spans.values()} == {int(TRACE, 16)}
    assert (call.kind, module.kind, tool.kind) == (SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.INTERNAL)
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "dspy_bridge.cache_hit": False,
    }
    assert tool.attributes["gen_ai.tool.name"] == "search"
    assert (tool.attributes["error.type"], tool.status.status_code) == ("ValueError", StatusCode.ERROR)


@pytest.mark.parametrize("given", ["", "nonsense", "00-0-0-01", "é"])
def test_a_traceparent_that_is_none_begins_a_trace(mapping: Mapping, given: str) -> None:
    mapping.tracer.request(ASKED._replace(traceparent=given), 42, 12.0, "success")
    assert mapping.spans()["execute_program"].parent is None


def test_what_a_host_does_not_want_sampled_is_not(mapping: Mapping) -> None:
    asked = ASKED._replace(traceparent=f"00-{TRACE}-{PARENT}-00")
    mapping.tracer.record(Span("lm", "m", 10.6, 10.7, 42, "s", {"id": "aa", "parent": None}, asked))
    mapping.tracer.request(asked, 42, 12.0, "success")
    assert mapping.spans() == {}


# -- end to end ------------------------------------------------------------------------------------


def test_a_collector_gets_the_whole_tree_below_the_hosts_own_span(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=mine")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with Host(arguments=["--otel"]) as host:
            host.receive()
            host.result("configure_lm", {"model": "scripted", "delay_ms": 5})
            host.result("create_program", {"id": "p", "signature": "q -> a"})
            args = {"program_id": "p", "inputs": {"q": "?"}}
            host.result("execute_program", args, traceparent=f"00-{TRACE}-{PARENT}-01")
            assert host.ask("get_program_info", {"program_id": "none"})["error"]["code"] == "program_not_found"
            request = collector.named("execute_program")
        # What was left came when the daemon ended.
        failed = collector.named("get_program_info")
    below = {span["name"]: span for span in collector.spans if span["trace"] == TRACE}
    assert below.keys() == {"execute_program", "queue", "work", "Predict", "chat scripted"}
    assert request["parent"] == PARENT
    assert below["queue"]["parent"] == below["work"]["parent"] == request["id"]
    assert below["Predict"]["parent"] == below["work"]["id"]
    assert below["chat scripted"]["parent"] == below["Predict"]["id"]
    assert below["chat scripted"]["kind"] == 3, "a client's"
    assert below["chat scripted"]["attributes"]["gen_ai.usage.input_tokens"] > 0
    assert request["start"] <= below["work"]["start"] <= below["chat scripted"]["start"]
    assert below["chat scripted"]["end"] <= below["work"]["end"] <= request["end"]
    assert (request["status"], failed["status"]) == (1, 2)
    assert failed["attributes"]["error.type"] == "program_not_found"
    assert failed["parent"] == ""
    assert request["resource"]["service.name"] == "answers"
    assert (collector.headers[0]["path"], collector.headers[0]["x-tenant"]) == ("/v1/traces", "mine")


def test_a_collector_that_never_answers_does_not_hold_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
        client = Client.spawn(["--otel"])
        client.call("ping", {"deep": True})
        began = time.monotonic()
        assert client.close(timeout=30) == 0
        assert time.monotonic() - began < 20


# -- refusals --------------------------------------------------------------------------------------


def refusal(folder: Path, *flags: str) -> tuple[int, str]:
    done = subprocess.run(
        [*CLI, "serve", "--otel", "--socket", str(folder / "s"), *flags],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert not (folder / "s").exists()
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://x"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ],
)
def test_bad_settings_are_refused_at_start_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    code, said = refusal(folder)
    assert code == 2
    assert f"--otel: {name} must be" in said


def test_without_the_extra_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = folder / "hidden"
    (hidden / "opentelemetry" / "exporter").mkdir(parents=True)
    for part in ("opentelemetry", "opentelemetry/exporter"):
        (hidden / part / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    code, said = refusal(folder)
    assert code == 2
    assert "pip install 'dspy-bridge[otel]'" in said
