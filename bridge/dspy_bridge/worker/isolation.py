"""The leak matrix: everything global an interpreter has that one session must not see of another.

Each probe can *plant* a canary in its piece of global state and *read* that state back as text.
``bridge-cli verify-isolation`` plants all of them in one session and reads all of them in another.
"""

from __future__ import annotations

import builtins
import decimal
import importlib
import logging
import os
import random
import signal
import string
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import dspy


@dataclass(frozen=True, slots=True)
class Probe:
    """``read`` must say the canary after ``plant(canary)``, in the same interpreter."""

    name: str
    plant: Callable[[str], Any]
    read: Callable[[], Any]
    needs: str = ""
    """A module without which the probe makes no sense here; imported when it plants."""


def _number(canary: str) -> int:
    return int(canary, 16) % 10_000 + 20_000


def _history() -> list[Any]:
    history: list[Any] = sys.modules["dspy.clients.base_lm"].GLOBAL_HISTORY
    return history


def _litellm(attribute: str) -> Any:
    return getattr(sys.modules.get("litellm"), attribute, None)


def _set_litellm(attribute: str, value: Any) -> None:
    import litellm

    setattr(litellm, attribute, value)


def _seed_numpy(canary: str) -> None:
    numpy: Any = importlib.import_module("numpy")
    numpy.random.seed(_number(canary))


def _numpy_state() -> Any:
    numpy = sys.modules.get("numpy")
    return None if numpy is None else numpy.random.get_state()[1][:2].tolist()


def _set_module(name: str) -> None:
    modules: Any = sys.modules
    modules["planted"] = name


def _chdir(canary: str) -> None:
    os.chdir(tempfile.mkdtemp(prefix=canary))


PROBES: Final = (
    Probe("dspy.settings", lambda c: dspy.configure(planted=c), lambda: dspy.settings.get("planted")),
    Probe("dspy.settings.lm", lambda c: dspy.configure(lm=c), lambda: dspy.settings.lm),
    Probe("dspy.settings.trace", lambda c: dspy.settings.trace.append(c), lambda: dspy.settings.trace),
    Probe("dspy history", lambda c: _history().append(c), _history),
    Probe(
        "dspy cache in memory",
        lambda c: dspy.cache.memory_cache.__setitem__("planted", c),
        lambda: dspy.cache.memory_cache.get("planted"),
    ),
    Probe(
        "dspy cache on disk",
        lambda c: os.environ.__setitem__("DSPY_CACHEDIR", f"/nonexistent/{c}"),
        lambda: (os.environ.get("DSPY_CACHEDIR"), dspy.cache.enable_disk_cache),
    ),
    Probe("os.environ", lambda c: os.environ.__setitem__("BRIDGE_CANARY", c), lambda: os.environ.get("BRIDGE_CANARY")),
    Probe("working directory", _chdir, os.getcwd),
    Probe("temporary folder", lambda c: setattr(tempfile, "tempdir", f"/tmp/{c}"), tempfile.gettempdir),
    Probe("umask", lambda c: _plant_umask(c), lambda: _peek_umask()),
    Probe("random stream", lambda c: random.seed(c), lambda: random.getstate()[1][:2]),
    Probe("numpy stream", _seed_numpy, _numpy_state, needs="numpy"),
    Probe("module globals", lambda c: setattr(string, "planted", c), lambda: getattr(string, "planted", None)),
    Probe("builtins", lambda c: setattr(builtins, "planted", c), lambda: getattr(builtins, "planted", None)),
    Probe("sys.modules", _set_module, lambda: sys.modules.get("planted")),
    Probe("sys.path", lambda c: sys.path.append(f"/{c}"), lambda: sys.path),
    Probe("warnings filters", lambda c: warnings.filterwarnings("ignore", message=c), lambda: warnings.filters[:3]),
    Probe("logging level", lambda c: logging.getLogger().setLevel(_number(c)), lambda: logging.getLogger().level),
    Probe(
        "decimal precision",
        lambda c: setattr(decimal.getcontext(), "prec", _number(c)),
        lambda: decimal.getcontext().prec,
    ),
    Probe("recursion limit", lambda c: sys.setrecursionlimit(_number(c)), sys.getrecursionlimit),
    Probe(
        "signal handlers",
        lambda c: signal.signal(signal.SIGALRM, lambda *_: c),
        lambda: signal.getsignal(signal.SIGALRM),
    ),
    Probe("litellm.api_key", lambda c: _set_litellm("api_key", c), lambda: _litellm("api_key"), needs="litellm"),
    Probe(
        "litellm.callbacks", lambda c: _set_litellm("callbacks", [c]), lambda: _litellm("callbacks"), needs="litellm"
    ),
)


def _plant_umask(canary: str) -> None:
    """There are few: one canary in five hundred would otherwise be the mask everybody has."""
    mask = _number(canary) % 0o777
    os.umask(mask if mask != _peek_umask() else mask ^ 1)


def _peek_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def plant(canary: str, *, skip: list[str]) -> dict[str, str]:
    """Plant ``canary`` (hexadecimal) everywhere; what each probe reads afterwards, by its name."""
    for probe in PROBES:
        if _applies(probe, skip):
            probe.plant(canary)
    return read(skip=skip)


def read(*, skip: list[str]) -> dict[str, str]:
    """What each probe reads in this interpreter."""
    return {probe.name: repr(probe.read())[:2_000] for probe in PROBES if _applies(probe, skip)}


def _applies(probe: Probe, skip: list[str]) -> bool:
    return probe.needs not in skip and (not probe.needs or find_spec(probe.needs) is not None)
