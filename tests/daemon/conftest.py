"""What several modules of these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dspy_bridge.client import Client


@pytest.fixture(scope="module")
def allowing() -> Iterator[Client]:
    """A daemon whose sessions may have the adapters of :mod:`tests.support`."""
    client = Client.spawn(["--allow-import", "tests.support"])
    yield client
    assert client.close() == 0
