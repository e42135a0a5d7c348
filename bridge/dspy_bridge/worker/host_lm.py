"""``host``: a language model that lives in the host, which is asked for each completion.

The host gets the request as an OpenAI chat completion (``messages``, ``temperature``, ``tools`` …) and
answers with a text, with ``{"text", "usage"}``, or with a whole chat completion. Pieces sent before the
answer (``{"event": "token", "data": {"text"}}``) stream. Keys stay with the host, and tests are theirs
to make deterministic.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dspy
from dspy.lm15 import (
    Message,
    OpenAIChatLM,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamStartEvent,
    TextDelta,
    TextPart,
    Usage,
    response_from_openai_chat,
    response_to_events,
)

from dspy_bridge import jsonlib
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.host import DEFAULT_TIMEOUT_S, Host

_ENCODER = OpenAIChatLM(api_key="none", base_url="http://host.invalid/v1")
"""Writes requests the way OpenAI reads them; it never sends one."""


class HostLM(dspy.LM):  # type: ignore[misc]
    """See the module. ``name``: which of the host's models is meant, its affair."""

    def __init__(self, host: Host, name: str, *, timeout: float | None = None, **kwargs: Any) -> None:
        engine = _Engine(host, name, timeout or DEFAULT_TIMEOUT_S)
        kwargs.setdefault("num_retries", 0)  # the host knows better what to try again
        super().__init__(f"host/{name}", engine=engine, async_engine=_AsyncEngine(engine), **kwargs)

    # What its provider can do is known to the host alone: it gets the request whole.

    @property
    def supports_function_calling(self) -> bool:
        return True

    @property
    def supports_response_schema(self) -> bool:
        return True


class _Engine:
    """DSPy's engine interface: a canonical request in, a canonical response out."""

    def __init__(self, host: Host, name: str, timeout: float) -> None:
        self._host = host
        self._name = name
        self._timeout = timeout

    def __deepcopy__(self, _memo: Any) -> _Engine:
        return self  # DSPy copies models; there is one host

    def complete(self, request: Any) -> Any:
        return self._read(self._ask(request))

    def stream(self, request: Any) -> Iterator[Any]:
        """The pieces as they come; an answer that came whole is one piece."""
        pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answer = self._ask(request, on_piece=lambda _event, data: pieces.put(_text_of(data)))
                pieces.put(self._read(answer))
            except BaseException as exc:  # noqa: BLE001 - it is raised where it is awaited
                pieces.put(exc)

        # In this context: it is what says which request the host is asked for.
        threading.Thread(target=contextvars.copy_context().run, args=(ask,), daemon=True).start()
        started = False
        while True:
            piece = pieces.get()
            if isinstance(piece, BaseException):
                raise piece
            if isinstance(piece, str):
                if not started:
                    started = True
                    yield StreamStartEvent(model=self._name)
                yield StreamDeltaEvent(TextDelta(piece))
            elif started:
                yield StreamEndEvent(finish_reason=piece.finish_reason, usage=piece.usage)
                return
            else:
                yield from response_to_events(piece)
                return

    def close(self) -> None:
        """Nothing is held open."""

    def _ask(self, request: Any, on_piece: Any = None) -> Any:
        body = jsonlib.loads(_ENCODER.build_request(request, on_piece is not None).body)
        body["model"] = self._name
        return self._host.ask("lm", self._name, body, timeout=self._timeout, on_piece=on_piece)

    def _read(self, answer: Any) -> Any:
        if isinstance(answer, dict) and "choices" in answer:
            try:
                return response_from_openai_chat(answer, model=self._name)
            except (KeyError, TypeError, ValueError, IndexError) as exc:
                raise self._unreadable(f"its chat completion cannot be read: {exc}") from None
        text = answer if isinstance(answer, str) else answer.get("text") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            raise self._unreadable("an answer is a text, an object with text, or a chat completion")
        used = answer.get("usage") or {} if isinstance(answer, dict) else {}
        counts = {
            "input_tokens": used.get("prompt_tokens", used.get("input_tokens")),
            "output_tokens": used.get("completion_tokens", used.get("output_tokens")),
            "total_tokens": used.get("total_tokens"),
        }
        return Response(
            id=None,
            model=self._name,
            message=Message.assistant([TextPart(text or " ")]),
            finish_reason="stop",
            usage=Usage(**counts),
        )

    def _unreadable(self, why: str) -> BridgeError:
        return BridgeError("host_call_failed", f"the host's lm {self._name!r} answered wrongly: {why}")


def _text_of(data: Any) -> str:
    text = data.get("text") if isinstance(data, dict) else data
    return text if isinstance(text, str) else ""


class _AsyncEngine:
    """The same, awaited: each call in a thread."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    def __deepcopy__(self, _memo: Any) -> _AsyncEngine:
        return self

    async def complete(self, request: Any) -> Any:
        return await asyncio.to_thread(self._engine.complete, request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        events = self._engine.stream(request)
        ended = object()
        while (event := await asyncio.to_thread(next, events, ended)) is not ended:
            yield event

    async def aclose(self) -> None:
        """Nothing is held open."""
