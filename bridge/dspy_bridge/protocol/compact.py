"""JSON to be kept: ``orjson.dumps`` returns its 4 KiB buffer however little is in it."""

from __future__ import annotations

from typing import Any

import orjson


def dumps(value: Any) -> bytes:
    """As ``orjson.dumps``, in no more memory than the text needs."""
    return memoryview(orjson.dumps(value)).tobytes()
