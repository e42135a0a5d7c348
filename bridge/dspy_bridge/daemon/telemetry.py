"""Records as spans of OpenTelemetry: a request, its wait and its work, and below that what its program did.

Where to and under which name is said by the standard ``OTEL_*`` variables. Spans of a program arrive before those they
belong to have ended; they name their parents by ids that interpreters draw, which are kept.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from dspy_bridge.daemon.tracing import Asked, CannotTrace, Span
from dspy_bridge.protocol.secrets import redacted_text

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as Reported
    from opentelemetry.trace import SpanContext

logger = logging.getLogger(__name__)

_FLUSH_S: Final = 3.0
_MOST_OPEN: Final = 16_384
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TIMEOUTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")


def start_telemetry(about: Mapping[str, Any]) -> Telemetry:
    """Send spans to where the environment says. Raises :class:`CannotTrace`."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as exc:
        message = f"--otel needs the extra `otel` ({exc.name} is missing): pip install 'dspy-bridge[otel]'"
        raise CannotTrace(message) from None
    _check_settings()
    try:
        return Telemetry(about, OTLPSpanExporter())
    except Exception as exc:  # noqa: BLE001 - whatever the SDK cannot read
        # The variables may hold keys of the collector.
        message = f"--otel: the OTEL_* variables cannot be used: {redacted_text(str(exc))}"
        raise CannotTrace(message) from None


def _check_settings() -> None:
    """Refuse what the exporter would find out about with the first span, where nobody looks."""
    for name in _ENDPOINTS:
        url = os.environ.get(name)
        if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
            raise CannotTrace(f"--otel: {name} must be a URL such as http://localhost:4318")
    for name in _PROTOCOLS:
        if os.environ.get(name, "http/protobuf") != "http/protobuf":
            raise CannotTrace(f"--otel: {name} must be http/protobuf, the one protocol that is spoken")
    for name in _TIMEOUTS:
        given = os.environ.get(name, "10")
        try:
            fits = float(given) > 0
        except ValueError:
            fits = False
        if not fits:
            raise CannotTrace(f"--otel: {name} must be a number of seconds")


class _Request:
    """The spans of a request that has not ended."""

    __slots__ = ("span", "work")

    def __init__(self, span: Reported, work: Reported | None) -> None:
        self.span = span
        self.work = work


class Telemetry:
    """``exporter``: where spans go, from a thread of the SDK's own."""

    def __init__(self, about: Mapping[str, Any], exporter: SpanExporter) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._incoming = TraceContextTextMapPropagator()
        self._ids = _chosen_ids()
        facts = {
            "service.version": about["server_version"],
            "service.instance.id": about["boot_id"],
            "process.pid": about["pid"],
        }
        if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            facts["service.name"] = "dspy-bridge"
        self._provider = TracerProvider(resource=Resource.create(facts), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("dspy_bridge", about["server_version"])
        self._epoch = time.time_ns() - time.monotonic_ns()
        self._open: dict[int, _Request] = {}

    def take(self, span: Span) -> None:
        """Report a record, if it is of a request."""
        asked = span.asked
        if asked is None:
            return
        request = self._open.get(asked.number)
        if request is None:
            request = self._begin(asked, span.end)
        if span.kind == "request":
            self._open.pop(asked.number, None)
            self._end(request, span)
        elif request.work is not None:
            self._report(span, request.work.get_span_context())

    def _begin(self, asked: Asked, now: float) -> _Request:
        """``now``: how long it has waited if it never began."""
        parent = self._incoming.extract({"traceparent": asked.traceparent} if asked.traceparent else {})
        attributes = {"session.id": asked.session, "dspy_bridge.request.id": str(asked.id)}
        attributes |= {"dspy_bridge.command": asked.command}
        numbered = {"dspy_bridge.request.number": asked.number}
        span = self._tracer.start_span(
            asked.command,
            context=parent,
            kind=self._api.SpanKind.SERVER,
            attributes={**attributes, **numbered},
            start_time=self._ns(asked.received),
        )
        under = self._under(span.get_span_context())
        queue = self._tracer.start_span("queue", context=under, start_time=self._ns(asked.received))
        queue.end(self._ns(asked.started or now))
        work = None
        if asked.started:
            work = self._tracer.start_span("work", context=under, start_time=self._ns(asked.started))
        if len(self._open) >= _MOST_OPEN:  # of requests whose end was not seen
            self._open.pop(next(iter(self._open)))
        request = self._open[asked.number] = _Request(span, work)
        return request

    def _end(self, request: _Request, span: Span) -> None:
        outcome = span.args["outcome"]
        request.span.set_attribute("dspy_bridge.outcome", outcome)
        if span.worker is not None:
            for one in (request.span, request.work):
                if one is not None:
                    one.set_attribute("dspy_bridge.worker.pid", span.worker)
        for one in (request.work, request.span):
            if one is not None:
                if outcome == "success":
                    one.set_status(self._api.StatusCode.OK)
                else:
                    one.set_attribute("error.type", outcome)
                    one.set_status(self._api.StatusCode.ERROR)
                one.end(self._ns(span.end))

    def _report(self, span: Span, work: SpanContext) -> None:
        """A span of the program, under the one it was called from."""
        said = span.args
        parent = _number(said.get("parent"))
        under = work
        if parent:
            under = self._api.SpanContext(work.trace_id, parent, is_remote=False, trace_flags=work.trace_flags)
        name, kind, attributes = span.name, self._api.SpanKind.INTERNAL, dict[str, Any]()
        if span.kind == "lm":
            provider, slash, model = span.name.partition("/")
            name, kind = f"chat {span.name}", self._api.SpanKind.CLIENT
            attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model if slash else span.name}
            if slash:
                attributes["gen_ai.provider.name"] = provider
            for tokens in ("input_tokens", "output_tokens"):
                if tokens in said:
                    attributes[f"gen_ai.usage.{tokens}"] = said[tokens]
            if "cache_hit" in said:
                attributes["dspy_bridge.cache_hit"] = said["cache_hit"]
        elif span.kind == "tool":
            name = f"execute_tool {span.name}"
            attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": span.name}
        if "error" in said:
            attributes["error.type"] = said["error"]
        self._ids.chosen = _number(said.get("id"))
        reported = self._tracer.start_span(
            name, context=self._under(under), kind=kind, attributes=attributes, start_time=self._ns(span.start)
        )
        self._ids.chosen = 0
        if "error" in said:
            reported.set_status(self._api.StatusCode.ERROR)
        reported.end(self._ns(span.end))

    def _under(self, parent: SpanContext) -> Context:
        return self._api.set_span_in_context(self._api.NonRecordingSpan(parent))

    def _ns(self, moment: float) -> int:
        return self._epoch + round(moment * 1e9)

    def close(self) -> None:
        """Send what is left, within a bound: a collector that is gone must not hold the daemon."""
        sending = threading.Thread(target=self._provider.shutdown, name="telemetry-end", daemon=True)
        sending.start()
        sending.join(_FLUSH_S)
        if sending.is_alive():
            logger.warning("the last spans could not be sent within %d s", _FLUSH_S)


def _number(span_id: Any) -> int:
    """A span's id as OpenTelemetry has it; 0 where there is none, or what stands there is none."""
    try:
        return int(span_id, 16) & 0xFFFF_FFFF_FFFF_FFFF if span_id else 0
    except ValueError:
        return 0


def _chosen_ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class ChosenIds(RandomIdGenerator):  # type: ignore[misc, unused-ignore]
        """``chosen``: the id of the next span (0: any)."""

        chosen = 0

        def generate_span_id(self) -> int:
            return self.chosen or super().generate_span_id()

    return ChosenIds()
