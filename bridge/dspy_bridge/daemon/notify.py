"""Telling a service manager how the daemon is, by the protocol of sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
import time


class Notifier:
    """Tells whoever ``$NOTIFY_SOCKET`` names; nobody, where it names none. Takes the variable out of the
    environment: what the daemon starts has nothing to tell."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # a name in Linux's abstract space

    def reloading(self) -> None:
        """``READY=1`` is to follow, whatever comes of it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.tell(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def tell(self, state: str) -> None:
        """Send ``state``, such as ``READY=1``."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.sendto(state.encode(), self._address)
