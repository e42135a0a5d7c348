"""Rows of the host as DSPy's examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from dspy_bridge.worker.signatures import BoundSignature
from dspy_bridge.worker.types import bad


def make_examples(signature: BoundSignature, rows: Sequence[Mapping[str, Any]], path: str) -> list[dspy.Example]:
    """Rows of the host as DSPy's examples: inputs checked, everything else a label. Raises ``invalid_args``."""
    if not rows:
        raise bad(path, "must not be empty")
    examples = []
    for index, row in enumerate(rows):
        given = {name: row[name] for name in signature.inputs if name in row}
        inputs = signature.decode_inputs(given, path=f"{path}[{index}]")
        outputs = signature.outputs
        labels = {
            outputs[name].python_name if name in outputs else name: value
            for name, value in row.items()
            if name not in given
        }
        examples.append(dspy.Example(**inputs, **labels).with_inputs(*inputs))
    return examples
