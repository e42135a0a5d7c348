"""The folders sessions have for themselves, all below one that no other account can look into.

A session's *place* is a folder that stays where it is while the session lives; its scratch folder, in it,
is replaced by an empty one when it has grown too large. A worker whose file system is read-only has the
place mounted, and sees the replacement.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
from pathlib import Path


class Scratch:
    """See the module. ``root`` is removed by the guardian."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dspy-bridge-")).resolve()
        self._numbers = itertools.count(1)

    def new_name(self) -> str:
        """For a session's place that nobody has had."""
        return str(next(self._numbers))

    def place(self, name: str) -> Path:
        return self.root / name

    def folder(self, name: str) -> Path:
        """The scratch folder of the session whose place has that name."""
        return self.root / name / "tmp"

    def make(self, name: str, uid: int) -> None:
        """Have the folders be there, the scratch folder as that of account ``uid`` (0: of ours)."""
        place, folder = self.place(name), self.folder(name)
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            place.chmod(0o755 if uid else 0o700)  # whatever the umask; nobody gets as far as here from outside
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            if uid:
                os.chown(folder, uid, uid)

    def empty(self, name: str, uid: int) -> None:
        """Replace the scratch folder by an empty one."""
        trash = self.root / f"trash-{self.new_name()}"
        with contextlib.suppress(OSError):
            self.folder(name).rename(trash)
            self.make(name, uid)
            _in_background(trash)

    def remove(self, name: str) -> None:
        """Now if there is nothing in it; a tree is left to a thread."""
        place = self.place(name)
        try:
            self.folder(name).rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            _in_background(place)
            return
        with contextlib.suppress(FileNotFoundError):
            place.rmdir()

    def remove_all(self, name: str) -> None:
        """Whatever is in it, now. For a thread."""
        shutil.rmtree(self.place(name), ignore_errors=True)


def _in_background(folder: Path) -> None:
    threading.Thread(target=shutil.rmtree, args=(folder, True), daemon=True).start()
