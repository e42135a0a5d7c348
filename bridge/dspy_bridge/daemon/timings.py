"""Durations: shares of the latest ones, and how all there ever were are distributed."""

from __future__ import annotations

import bisect
import collections
import itertools
from collections.abc import Iterable
from typing import Any, Final

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets, in seconds."""
_LATEST: Final = 1_000
SHARES: Final = (50, 90, 99)


def percentiles(seconds: Iterable[float]) -> dict[int, float | None]:
    """For each of :data:`SHARES` the duration that so many of 100 do not exceed; None where there is none."""
    ordered = sorted(seconds)
    return {share: ordered[len(ordered) * share // 100] if ordered else None for share in SHARES}


def in_ms(seconds: Iterable[float]) -> dict[str, float | None]:
    """:func:`percentiles` as the wire says them."""
    return {
        f"p{share}": round(value * 1000, 3) if value is not None else None
        for share, value in percentiles(seconds).items()
    }


class Timings:
    """Durations of something that happens often: they are counted when somebody asks, or there are many."""

    def __init__(self) -> None:
        self._latest: collections.deque[float] = collections.deque(maxlen=_LATEST)
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._uncounted: list[float] = []

    def add(self, seconds: float) -> None:
        self._uncounted.append(seconds)
        if len(self._uncounted) >= _LATEST:
            self._count()

    def _count(self) -> None:
        for seconds in self._uncounted:
            self._counts[bisect.bisect_left(BOUNDS, seconds)] += 1
            self._sum += seconds
        self._latest += self._uncounted
        self._uncounted = []

    def latest(self) -> dict[str, float | None]:
        """:func:`in_ms` of the latest thousand."""
        self._count()
        return in_ms(self._latest)

    def histogram(self) -> dict[str, Any]:
        """Of all: ``buckets`` are cumulative, how many were at most so many seconds."""
        self._count()
        totals = list(itertools.accumulate(self._counts))
        return {
            "buckets": {f"{bound:g}": total for bound, total in zip(BOUNDS, totals, strict=False)},
            "sum_s": round(self._sum, 6),
            "count": totals[-1],
        }
