"""An adapter that imports what is not thread-safe, and one that does nothing but compute."""

import sqlite3
import time

from dspy_bridge.adapter import ThreadSafeAdapter, thread_safe_method, tool


class Database(ThreadSafeAdapter):
    __thread_safe__ = True

    @thread_safe_method
    @tool
    def version(self) -> str:
        return sqlite3.sqlite_version

    @thread_safe_method
    @tool
    def burn(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
