"""An interpreter that any account can run, whatever account this one was installed for.

Where its folder lies below one that others cannot look into (root's home, say), a script stands in for it:
in a view of the file system of its own it lays an empty folder over that one, with nothing in it but the
way to the interpreter.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

_SCRIPT = """#!/bin/sh
[ -n "$OPEN_PYTHON" ] && exec {python} "$@"
export OPEN_PYTHON=1
exec unshare --mount --propagation private sh -c {inside} {python} "$@"
"""
_INSIDE = """set -e
mount --bind {prefix} {kept}
mount -t tmpfs -o mode=755 tmpfs {closed}
mkdir -p {prefix}
mount --bind {kept} {prefix}
exec "$0" "$@"
"""


def open_python(folder: Path) -> str:
    """The interpreter itself if it can be, otherwise such a script, made in ``folder``."""
    prefix = Path(sys.base_prefix)
    closed = [one for one in reversed(prefix.parents) if not one.stat().st_mode & stat.S_IXOTH]
    if not closed:
        return sys.executable
    kept = folder / "kept"
    kept.mkdir()
    names = {"prefix": prefix, "closed": closed[0], "kept": kept}
    inside = _INSIDE.format(**{name: shlex.quote(str(path)) for name, path in names.items()})
    script = folder / "python"
    script.write_text(_SCRIPT.format(python=shlex.quote(sys.executable), inside=shlex.quote(inside)))
    script.chmod(0o755)
    folder.chmod(0o755)
    assert os.access(script, os.X_OK)
    return str(script)
