"""Tools a program may use that live in its host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy

from dspy_bridge import jsonlib
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.session_commands import ToolSpec
from dspy_bridge.worker.host import Host


class ObservedTool(dspy.Tool):  # type: ignore[misc]
    """A tool whose refusals are observations: DSPy would put a traceback into the prompt, with this machine's paths."""

    def __call__(self, **args: Any) -> Any:
        try:
            return super().__call__(**args)
        except ValueError as exc:  # arguments that do not fit its schema
            return f"Error: {str(exc).splitlines()[0] if str(exc) else 'the arguments do not fit'}"


def build_tools(specs: Sequence[ToolSpec], host: Host) -> list[dspy.Tool]:
    """One DSPy tool for each; what it is called with goes to the host as a ``tool`` call."""
    return [_host_tool(spec, host) for spec in specs]


def _host_tool(spec: ToolSpec, host: Host) -> dspy.Tool:
    properties = spec.args.get("properties", spec.args if spec.args.get("type") != "object" else {})

    def call(**args: Any) -> Any:
        # A failing tool is something the agent observes: DSPy would put a traceback into the prompt.
        try:
            result = host.ask("tool", spec.name, args, timeout=spec.timeout_ms / 1000)
        except BridgeError as error:
            return f"Error: {error.message}"
        return result if isinstance(result, str) else jsonlib.dumps(result).decode()

    return ObservedTool(
        call,
        name=spec.name,
        desc=spec.description,
        args=dict(properties),
        arg_types=dict.fromkeys(properties, Any),
        arg_desc={name: schema.get("description", "") for name, schema in properties.items()},
    )
