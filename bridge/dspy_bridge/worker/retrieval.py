"""Programs that look things up by the nearness of vectors.

The vectors of a corpus are part of what a program has learned: they are made once, when the program is
created, travel with the session's snapshot, and are saved and loaded as DSPy's own states are.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import dspy
from dspy.predict.parameter import Parameter

from dspy_bridge.worker.embedders import Embed
from dspy_bridge.worker.types import bad

MAX_BYTES: Final = 64 << 20
"""Of the vectors of one program."""

Item = str | dict[str, Any]


class Index(Parameter):  # type: ignore[misc]
    """The vectors of ``texts``. ``find_embedder``: asked whenever something is to be embedded."""

    def __init__(self, texts: Sequence[str], find_embedder: Callable[[], Embed]) -> None:
        self._texts = list(texts)
        self._find = find_embedder
        self._vectors: Any = None

    def embed(self, texts: Sequence[str]) -> Any:
        """A float32 array of one row each; not asked for again where they are the corpus."""
        return self.vectors() if list(texts) == self._texts else self._find()(list(texts))

    def vectors(self) -> Any:
        """Those of the corpus, made now if need be. Raises ``invalid_args`` if they are too large."""
        if self._vectors is None:
            vectors = self._find()(self._texts)
            if vectors.nbytes > MAX_BYTES:
                raise bad("args.options", f"the vectors take {vectors.nbytes >> 20} MiB, at most {MAX_BYTES >> 20} fit")
            self._vectors = vectors
        return self._vectors

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """As far as they have been made."""
        if self._vectors is None:
            return {"shape": None, "float32": ""}
        return {"shape": list(self._vectors.shape), "float32": base64.b64encode(self._vectors.tobytes()).decode()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises ``ValueError`` unless it is a state of as many texts."""
        import numpy

        if state["shape"] is None:
            return
        rows, columns = state["shape"]
        if rows != len(self._texts):
            raise ValueError(f"it holds vectors of {rows} texts, this program has {len(self._texts)}")
        flat = numpy.frombuffer(base64.b64decode(state["float32"], validate=True), dtype=numpy.float32)
        self._vectors = flat.reshape(rows, columns)


class Retriever(dspy.Module):  # type: ignore[misc]
    """As ``dspy.EmbeddingsWithScores``, but exact at any size and without a thread of its own."""

    def __init__(self, corpus: Sequence[Item], index: Index, k: int, normalize: bool) -> None:
        super().__init__()
        self.index = index
        self._corpus = list(corpus)
        self._k = k
        self._normalize = normalize

    def forward(self, query: str, k: int | None = None) -> dspy.Prediction:
        import numpy

        corpus, asked = self.index.vectors(), self.index.embed([query])
        if self._normalize:
            corpus, asked = _normalized(corpus), _normalized(asked)
        scores = corpus @ asked[0]
        best = numpy.argsort(-scores, kind="stable")[: self._k if k is None else k]
        return dspy.Prediction(
            passages=[self._corpus[at] for at in best], indices=best.tolist(), scores=scores[best].tolist()
        )


def _normalized(vectors: Any) -> Any:
    import numpy

    return vectors / numpy.maximum(numpy.linalg.norm(vectors, axis=1, keepdims=True), 1e-10)


class NearestFewShot(dspy.Module):  # type: ignore[misc]
    """``dspy.KNNFewShot``: each call is shown the examples nearest to it."""

    def __init__(
        self, student: dspy.Module, examples: Sequence[dspy.Example], index: Index, k: int, bootstrap: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.student = student
        self.index = index
        self._examples = list(examples)
        self._k = k
        self._bootstrap = dict(bootstrap)

    def forward(self, **inputs: Any) -> dspy.Prediction:
        optimizer = dspy.KNNFewShot(self._k, self._examples, self.index.embed, **self._bootstrap)
        return optimizer.compile(self.student)(**inputs)


def text_of(item: Item, fields: Sequence[str], where: str) -> str:
    """What of ``item`` is embedded. Raises ``invalid_args``."""
    if isinstance(item, str):
        return item
    missing = [name for name in fields if name not in item]
    if missing or not fields:
        raise bad(where, f"has no {missing[0]!r}" if missing else "is an object: say in text which fields to embed")
    values = [str(item[name]) for name in fields]
    return values[0] if len(fields) == 1 else " | ".join(map(": ".join, zip(fields, values, strict=True)))


def text_of_inputs(example: dspy.Example) -> str:
    """As ``dspy.KNN`` puts an example into words."""
    return " | ".join(f"{name}: {value}" for name, value in example.inputs().items())
