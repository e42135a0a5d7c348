"""A program's answer as it is being written: ``token`` events per field, ``status`` events per step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import dspy
from dspy.streaming import StreamListener, StreamResponse
from dspy.utils.callback import BaseCallback

from dspy_bridge import jsonlib
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.signatures import BoundSignature

_STREAMABLE: Final = (dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter)
"""Adapters DSPy can find field boundaries of; their subclasses (BAML) it cannot."""


class StatusEvents(BaseCallback):  # type: ignore[misc]
    """Tells the host what a program is doing. Called from any of its threads."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._host.tell("status", {"status": "module_started", "module": type(instance).__name__})

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._host.tell("status", {"status": "lm_called", "model": str(instance.model)})

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._host.tell("status", {"status": "tool_called", "tool": str(instance.name)})

    def on_tool_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self._host.tell("status", {"status": "tool_answered", "failed": exception is not None})


def stream(
    module: dspy.Module,
    inputs: Mapping[str, Any],
    signature: BoundSignature,
    wanted: Collection[str] | None,
    host: Host,
) -> dspy.Prediction:
    """Run ``module``, telling the host each piece of the fields ``wanted`` (None: every output field of
    every predictor). A field nothing was heard of (a cached or scripted answer, an adapter that cannot
    stream) comes as one event, marked ``whole``."""
    heard: set[str] = set()

    def tell(response: StreamResponse) -> None:
        field = signature.wire_names.get(response.signature_field_name, response.signature_field_name)
        heard.add(field)
        data = {"field": field, "text": response.chunk, "last": response.is_last_chunk}
        host.tell("token", {**data, "predictor": response.predict_name})

    if type(dspy.settings.adapter) in _STREAMABLE:
        prediction = _listen(module, inputs, _listeners(module, signature, wanted), tell)
    else:
        prediction = module(**inputs)
    for field, value in signature.encode_outputs(prediction).items():
        if field not in heard and (field in wanted if wanted is not None else field in signature.outputs):
            text = value if isinstance(value, str) else jsonlib.dumps(value).decode()
            host.tell("token", {"field": field, "text": text, "last": True, "whole": True})
    return prediction


def _listeners(module: dspy.Module, signature: BoundSignature, wanted: Collection[str] | None) -> list[StreamListener]:
    return [
        StreamListener(signature_field_name=field, predict=predictor, predict_name=name, allow_reuse=True)
        for name, predictor in module.named_predictors()
        for field in predictor.signature.output_fields
        if wanted is None or signature.wire_names.get(field, field) in wanted
    ]


def _listen(
    module: dspy.Module,
    inputs: Mapping[str, Any],
    listeners: list[StreamListener],
    tell: Callable[[StreamResponse], None],
) -> dspy.Prediction:
    run = dspy.streamify(module, stream_listeners=listeners)

    async def consume() -> dspy.Prediction:
        prediction: dspy.Prediction | None = None
        async for value in run(**inputs):
            if isinstance(value, StreamResponse):
                tell(value)
            elif isinstance(value, dspy.Prediction):
                prediction = value
        assert prediction is not None
        return prediction

    return asyncio.run(consume())
