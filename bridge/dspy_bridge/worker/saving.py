"""Programs as DSPy saves them: what is written here loads in plain Python, and the other way round.

A state belongs to a program of its shape. DSPy loads one of another shape without a word; here it is
refused, and so is everything that is no JSON. A state never brings a model along: the session says
which model runs, and a saved one would lack its key or carry somebody's headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.types import bad
from dspy_bridge.worker.values import to_json


def dump_state(module: dspy.Module) -> dict[str, Any]:
    """What ``module`` has learned (instructions, demos), as JSON-able data without models."""
    if any(predictor.lm is not None for predictor in module.predictors()):
        module = module.deepcopy()
        module.set_lm(None)  # not every model can be dumped, and none is wanted
    state = to_json(module.dump_state(), "state")
    for predictor in _predictors(module, state).values():
        predictor["lm"] = None
        predictor["traces"], predictor["train"] = [], []
    assert isinstance(state, dict)
    return state


def with_metadata(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` as ``Module.save`` writes it to a file."""
    from dspy.utils.saving import get_dependency_versions

    return {**state, "metadata": {"dependency_versions": get_dependency_versions()}}


def load_state(module: dspy.Module, state: Mapping[str, Any], where: str = "args.state") -> None:
    """Make ``module`` as it was when ``state`` was dumped. Raises ``invalid_args`` unless it fits."""
    given = {name: value for name, value in state.items() if name != "metadata"}
    try:
        wanted = dump_state(module)
        _check_shape(wanted, given, where)
        mine, theirs = _predictors(module, wanted), _predictors(module, given)
        for name, expected in mine.items():
            _check_predictor(expected, theirs[name], f"{where}.{name}" if name else where)
            theirs[name]["lm"] = None
        module.load_state(given)
    except BridgeError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever DSPy makes of what is no state of its own
        raise bad(where, f"is no state of this program: {type(exc).__name__}: {exc}") from None


def _predictors(module: dspy.Module, state: Any) -> dict[str, Any]:
    """Each predictor's own state by its name; a lone ``Predict`` is its whole state."""
    if isinstance(module, dspy.Predict):
        return {"": state}
    names = [name for name, _ in module.named_predictors()]
    return {name: state[name] for name in names if name in state}


def _check_shape(wanted: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    missing, unknown = wanted.keys() - given.keys(), given.keys() - wanted.keys()
    # What later versions of DSPy add inside a predictor is theirs to judge.
    if missing:
        raise bad(where, f"does not fit this program: it lacks {', '.join(sorted(missing))}")
    if unknown - {"fields"}:
        raise bad(where, f"does not fit this program: it has {', '.join(sorted(unknown))} too")


def _check_predictor(wanted: Mapping[str, Any], given: Any, where: str) -> None:
    if not isinstance(given, dict) or not isinstance(given.get("signature"), dict):
        raise bad(where, "is no predictor's state")
    expected = [field["prefix"] for field in wanted["signature"]["fields"]]
    found = [field.get("prefix") for field in given["signature"].get("fields", [])]
    if found != expected:
        raise bad(f"{where}.signature", f"has the fields {found}, this program's are {expected}")
    if not isinstance(given.get("demos"), list) or not all(isinstance(one, dict) for one in given["demos"]):
        raise bad(f"{where}.demos", "must be an array of objects")
