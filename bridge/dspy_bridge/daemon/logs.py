"""What the daemon logs, and how: one event per fact, for people or as JSON, without anybody's secrets."""

from __future__ import annotations

import logging
import os
import stat
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.protocol.secrets import redacted_text

FACTS: Final = ("session", "worker", "request", "client")
"""What a record may say beside its message (``extra=``), under these names."""


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted_text(super().format(record))


class _Json(logging.Formatter):
    """One object a line: ``time`` (RFC 3339), ``level``, ``logger``, ``event``, the facts, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": redacted_text(record.getMessage()),
        }
        said |= {name: getattr(record, name) for name in FACTS if hasattr(record, name)}
        if record.exc_info:
            said["exception"] = redacted_text(self.formatException(record.exc_info))
        return jsonlib.dumps(said, default=str).decode()


def log_handler(options: DaemonOptions) -> logging.Handler:
    """Where records go by these options: a file, or stderr. Raises ``OSError`` for a file that cannot be."""
    handler: logging.Handler
    if options.log_file:
        handler = logging.FileHandler(_private(Path(options.log_file)))
    else:
        handler = logging.StreamHandler(sys.stderr)
    plain = _Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_Json() if options.log_format == "json" else plain)
    return handler


def log_to(handler: logging.Handler, level: str) -> None:
    """Log there from now on, and nowhere else."""
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _private(path: Path) -> Path:
    """Only its owner can read it, from the first byte on; a device or a pipe stays as it is."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
    return path
