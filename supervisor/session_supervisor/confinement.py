"""What a worker shuts itself in with, once, between its birth and its becoming a session.

Until then it is nobody's; from then on it cannot go back, nor can anything it starts. A confinement is
whole or it fails, and a worker whose confinement has failed serves nobody.

Without ids of its own a worker enters a *user namespace*: that is where the right to make the other
namespaces comes from, and it alone keeps workers of one account from tracing each other (a process may
trace into another user namespace only from above). With ids of its own it makes them as root and then
leaves root behind.

Run as ``python -m session_supervisor.confinement`` it tries one on: see :mod:`.hardening`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from session_supervisor import namespaces
from session_supervisor.os_facts import die_with_parent, native_threads, open_descriptors

NO_NEW_PRIVS = "no-new-privs"
OWN_UID = "own-uid"
NO_NETWORK = "no-network"
READ_ONLY = "read-only"

_SHARED_MEMORY = "/dev/shm"


class ConfinementFailed(Exception):
    """A step was not possible; ``measure`` is the one it belongs to. Raised by :meth:`Confinement.enter`."""

    def __init__(self, measure: str, reason: str) -> None:
        super().__init__(f"{measure}: {reason}")
        self.measure = measure


@dataclass(frozen=True, slots=True)
class Confinement:
    """That of one session. ``uid``: its account and group (0: the daemon's). ``place``: the one folder of its
    file system that it may write to, with its scratch ``folder`` in it (empty: file systems stay as they
    are). ``writable``: folders it may write to besides. ``hidden``: what it does not find there: folders are
    empty, sockets are none."""

    uid: int = 0
    no_network: bool = False
    place: str = ""
    folder: str = ""
    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def pack(self) -> bytes:
        """As the body of a frame. No path holds a NUL."""
        rest = [*(f"+{path}" for path in self.writable), *(f"-{path}" for path in self.hidden)]
        fields = (str(self.uid), "1" if self.no_network else "", self.place, self.folder, *rest)
        return b"\0".join(os.fsencode(field) for field in fields)

    @classmethod
    def unpack(cls, body: bytes) -> Confinement:
        uid, no_network, place, folder, *rest = (os.fsdecode(field) for field in body.split(b"\0"))
        writable = tuple(one[1:] for one in rest if one[0] == "+")
        return cls(int(uid), bool(no_network), place, folder, writable, tuple(one[1:] for one in rest if one[0] == "-"))

    def enter(self) -> None:
        """Shut this process in. Raises :class:`ConfinementFailed`, after which it must serve nobody."""
        parent = os.getppid()
        with _step(NO_NEW_PRIVS):
            if native_threads() > 1:  # most of what follows holds for the calling thread alone
                raise OSError(f"{native_threads()} threads run in an interpreter that no session uses yet")
            namespaces.no_new_privileges()
        enclosed = self.no_network or bool(self.place)
        if enclosed and not self.uid:
            with _step(NO_NETWORK if self.no_network else READ_ONLY):
                namespaces.enter_user_namespace()
        if self.no_network:
            with _step(NO_NETWORK):
                namespaces.unshare(namespaces.CLONE_NEWNET)
        if self.place:
            with _step(READ_ONLY):
                self._seal()
        if self.uid or enclosed:
            with _step(OWN_UID if self.uid else READ_ONLY):
                namespaces.forgo_capabilities()
                if self.uid:
                    os.fchown(1, self.uid, self.uid)  # so that /dev/stdout can be opened
                    namespaces.become(self.uid)
                    if not os.access(self.folder, os.W_OK | os.X_OK):
                        raise OSError(f"the scratch folder {self.folder} is out of its reach")
                else:
                    namespaces.drop_capabilities()
        # A change of ids takes the kernel's promise back; its parent may have died meanwhile.
        die_with_parent()
        if os.getppid() != parent:
            os._exit(70)

    def _seal(self) -> None:
        """Nothing can be written but its place and what is allowed besides, and no other session's scratch
        folder is there: a folder of this process's own lies over the one that holds them all."""
        for fd in open_descriptors():
            # What is reached through an open folder would be reached on the mounts it was opened on.
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(f"descriptor {fd} is an open folder: {open_descriptors()[fd]}")
        namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC)
        namespaces.make_private()
        place, shared = namespaces.clone_folder(self.place), namespaces.clone_folder(self.folder)
        root = os.path.dirname(self.place)
        namespaces.mount("tmpfs", root, "mode=755,size=4k")
        os.mkdir(self.place)
        namespaces.make_read_only(root)
        if self.uid:  # of other accounts' processes it sees nothing, not even that they are there
            namespaces.mount("proc", "/proc", "hidepid=2")
        for path in self.hidden:
            if os.path.isdir(path):
                namespaces.mount("tmpfs", path, "mode=755,size=4k")
            elif os.path.exists(path):
                namespaces.attach(namespaces.clone_tree(os.devnull), path)
        others = [(folder, namespaces.clone_folder(folder)) for folder in self.writable]
        namespaces.make_read_only("/")
        for folder, tree in (*others, (self.place, place), (_SHARED_MEMORY, shared)):
            namespaces.attach(tree, folder)
        os.environ["HOME"] = self.folder
        try:
            os.chdir(os.getcwd())  # on the mounts that are there now
        except OSError:
            os.chdir(self.folder)


@contextlib.contextmanager
def _step(measure: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise ConfinementFailed(measure, exc.strerror or str(exc)) from None


def main() -> None:
    """Enter the confinement given as hexadecimal digits, then be the rest of the command line."""
    try:
        Confinement.unpack(bytes.fromhex(sys.argv[1])).enter()
    except ConfinementFailed as exc:
        sys.exit(str(exc))
    try:
        os.execv(sys.argv[2], sys.argv[2:])
    except OSError as exc:
        sys.exit(f"{OWN_UID}: {sys.argv[2]}: {exc.strerror}")


if __name__ == "__main__":
    main()
