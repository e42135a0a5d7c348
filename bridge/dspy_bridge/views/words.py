"""Figures in the words people read them in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

UNKNOWN: Final = "–"
_BLOCKS: Final = "▁▂▃▄▅▆▇█"


def count(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def plural(number: int, one: str) -> str:
    return f"{count(number)} {one}{'' if number == 1 else 's'}"


def rate(value: float | None) -> str:
    """Per second."""
    if value is None:
        return UNKNOWN
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def milliseconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if value >= 10_000:
        return duration(value / 1000)
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 0.1 else f"{value * 1000:.0f} µs"


def mebibytes(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value / 1024:,.1f} GiB" if value >= 10_240 else f"{value:,.1f} MiB"


def duration(seconds: float) -> str:
    """The two largest units: ``3 d 4 h``, ``12 min 5 s``."""
    parts: list[str] = []
    left = max(0, int(seconds))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount or (unit == "s" and not parts):
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2])


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The latest ``width`` values as blocks between zero and the highest; a gap where one is not known."""
    shown = values[-width:]
    top = max((value for value in shown if value is not None), default=0.0)
    return "".join(" " if value is None else _BLOCKS[round(7 * value / top) if top > 0 else 0] for value in shown)


def visible(text: str) -> str:
    """With what a terminal would act on, or would not show, as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
