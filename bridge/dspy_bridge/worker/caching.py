"""The cache of models' answers: a session's own, in memory; or one on disk it shares, if it asks for that.

DSPy's key of an answer leaves out the endpoint and the key it was asked with, so that two models of one
name would answer for each other. Here both are part of it, as a fingerprint, wherever they come from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import dspy
from dspy.clients.cache import Cache

ENTRIES: Final = 10_000
_DISK_BYTES: Final = 1 << 30
_WHOSE: Final = ("api_key", "api_base", "base_url", "headers", "extra_headers", "organization")
_OF_ENVIRONMENT: Final = ("_API_KEY", "_API_BASE", "_BASE_URL", "_TOKEN", "_ORGANIZATION")


class FingerprintedCache(Cache):  # type: ignore[misc]
    """DSPy's cache, its keys telling apart who was asked on whose behalf."""

    def cache_key(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> str:
        asked: str = super().cache_key(request, ignored_args_for_cache_key)
        whose = fingerprint({name: request.get(name) for name in _WHOSE}, os.environ)
        return hashlib.sha256(f"{asked} {whose}".encode()).hexdigest()


def fingerprint(given: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """Of an endpoint and what it is asked with; from it neither can be told."""
    ambient = sorted((name, value) for name, value in environ.items() if name.endswith(_OF_ENVIRONMENT))
    return hashlib.sha256(repr((sorted(given.items()), ambient)).encode()).hexdigest()


def use_cache(enabled: bool, shared: Path | None = None) -> None:
    """A new cache of this interpreter's own, in memory; over ``shared``, a folder, where there is one.

    What is read from the folder is never unpickled but for the types DSPy itself stores.
    """
    cache = FingerprintedCache(
        enable_disk_cache=enabled and shared is not None,
        enable_memory_cache=enabled,
        disk_cache_dir=shared,
        disk_size_limit_bytes=_DISK_BYTES,
        memory_max_entries=ENTRIES,
        restrict_pickle=True,
    )
    with dspy._cache_lock:  # as dspy.configure_cache does, which makes only caches of DSPy's own class
        dspy.cache = cache
