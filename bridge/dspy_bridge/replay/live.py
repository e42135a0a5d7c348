"""Which requests of a conversation used a model out in the world, whose answers cannot be had again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from dspy_bridge.protocol.lm_config import referred_name
from dspy_bridge.replay.conversation import Exchange

_DATA: Final = frozenset(("inputs", "examples", "trainset", "valset", "demos", "answers", "value", "env", "signature"))
"""Arguments that are for programs: a ``model`` in them names none."""
_ASKS_MODELS: Final = frozenset(
    ("execute_program", "execute_batch", "evaluate_program", "compile_program", "call_tool", "inspect_history")
)


def live_requests(exchanges: Sequence[Exchange]) -> set[int]:
    """The numbers of requests that ran programs with such a model, as far as arguments and usage tell; and of
    those that named one, because that may fail without its key."""
    live_sessions: set[str] = set()
    found: set[int] = set()
    for one in exchanges:
        if one.command == "branch_session" and one.session_id in live_sessions:
            live_sessions.add(_result(one).get("session_id", ""))
        if any(_is_live(config) for config in _configs(one.args)):
            live_sessions.add(_result(one).get("session_id", one.session_id))
            found.add(one.number)
        elif one.command in _ASKS_MODELS and one.session_id in live_sessions and not _used_repeatable(one):
            found.add(one.number)
    return found


def _configs(args: Any) -> Iterator[dict[str, Any]]:
    if isinstance(args, list):
        for one in args:
            yield from _configs(one)
    elif isinstance(args, dict):
        if isinstance(args.get("model"), str):
            yield args
        for name, value in args.items():
            if name not in _DATA:
                yield from _configs(value)


def _is_live(config: dict[str, Any]) -> bool:
    return referred_name(config) is None and not _repeats(config["model"])


def _repeats(model: str) -> bool:
    """Whether the recording holds what the model said (the host's), or it always says the same."""
    return model in ("scripted", "host") or model.startswith("host/")


def _used_repeatable(exchange: Exchange) -> bool:
    usage = _result(exchange).get("usage")
    return isinstance(usage, dict) and bool(usage) and all(map(_repeats, usage))


def _result(exchange: Exchange) -> dict[str, Any]:
    result = (exchange.reply or {}).get("result")
    return result if isinstance(result, dict) else {}


def key_variables(exchanges: Sequence[Exchange]) -> set[str]:
    """Variables of the environment that models were told to read their key from."""
    named = (config.get("api_key_env") for one in exchanges for config in _configs(one.args))
    return {name for name in named if isinstance(name, str)}
