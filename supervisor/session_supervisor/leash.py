"""``python -m session_supervisor.leash COMMAND ...``: the command, which dies when whoever started it does.

For what a session starts in a kernel session of its own, where the kill of its worker's group cannot reach
it. Where the system has no such promise (anywhere but on Linux) it is just the command.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from session_supervisor.os_facts import die_with_parent


def leashed(command: Sequence[str]) -> list[str]:
    """``command``, to be started under this module."""
    return [sys.executable, "-I", "-m", __spec__.name, *command]


def main() -> None:
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:  # it died before it could be held to the promise
        sys.exit(1)
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as exc:
        sys.exit(f"{sys.argv[1]}: {exc.strerror}")


if __name__ == "__main__":
    main()
