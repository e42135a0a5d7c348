"""Which measures against code that means harm every worker takes, and whether this machine can give them.

What a measure is made of is in :mod:`.confinement`. Here it is an operator's wish, refused before anything
is begun if it cannot be had: by asking the kernel, and by having a process do the very same.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from session_supervisor import namespaces
from session_supervisor.confinement import NO_NETWORK, NO_NEW_PRIVS, OWN_UID, READ_ONLY, Confinement
from session_supervisor.os_facts import IS_LINUX

MEASURES: Final = (NO_NEW_PRIVS, OWN_UID, NO_NETWORK, READ_ONLY)

_NEEDED: Final = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8}
_NEEDED_BESIDES: Final = {"SYS_PTRACE": 19, "SYS_ADMIN": 21}
"""To read the memory of another account's process; to make namespaces without one for users."""
_PROBE_S: Final = 30.0

_NO_NAMESPACES: Final = (
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns; a container's seccomp profile) or leave the measure out; "
    "read-only needs Linux 5.12"
)
_NO_ROOT: Final = (
    "start the daemon as root, with the capabilities "
    f"{', '.join(f'CAP_{name}' for name in (*_NEEDED, *_NEEDED_BESIDES))}, or leave the measure out"
)


class HardeningUnavailable(Exception):
    """A measure that is wanted cannot be had. ``remedy``: what to do. Raised by :meth:`Hardening.check`."""

    def __init__(self, measure: str, reason: str, remedy: str) -> None:
        super().__init__(f"{measure} cannot be had: {reason}; {remedy}")
        self.measure = measure
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Hardening:
    """``measures``: of :data:`MEASURES`; the first is part of every other. ``uids``: the ids sessions get.
    ``writable``: folders that stay writable. ``hidden``: sockets of the daemon's account that are kept from
    sessions of that account. Raises ``ValueError`` for what makes no sense together."""

    measures: frozenset[str] = frozenset()
    uids: range = range(0)
    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(self.measures.difference(MEASURES))
        if unknown:
            raise ValueError(f"there is no measure {unknown[0]!r}; there are {', '.join(MEASURES)}")
        if OWN_UID in self.measures and READ_ONLY not in self.measures:
            raise ValueError(
                f"{OWN_UID} needs {READ_ONLY} too: an id is given to another session later, "
                "and what the first has left anywhere would be that one's"
            )
        if OWN_UID in self.measures and not self.uids:
            raise ValueError(f"{OWN_UID} needs a range of ids that nobody else uses, such as 200000-265535")
        if self.uids and OWN_UID not in self.measures:
            raise ValueError(f"a range of ids is of no use without the measure {OWN_UID}")
        if self.uids and not 0 < self.uids[0] <= self.uids[-1] < 2**32 - 1:
            raise ValueError("ids lie between 1 and 4294967294")

    def __bool__(self) -> bool:
        return bool(self.measures)

    def confinement(self, uid: int, place: Path, folder: Path) -> Confinement:
        """What the workers of one session shut themselves in with."""
        no_network = NO_NETWORK in self.measures
        if READ_ONLY not in self.measures:
            return Confinement(no_network=no_network)
        # Its service manager would start programs for it, outside of everything; so would other daemons.
        hidden = () if uid else (f"/run/user/{os.geteuid()}", *self.hidden)
        return Confinement(uid, no_network, str(place), str(folder), self.writable, hidden)

    def check(self, python: str = sys.executable, packages: Sequence[str] = ()) -> None:
        """Raises :class:`HardeningUnavailable` unless workers of ``python`` can take the measures and, shut in,
        still import ``packages``."""
        if not self.measures:
            return
        if not IS_LINUX:
            raise HardeningUnavailable(sorted(self.measures)[0], "this is not Linux", "leave the measure out")
        if self.uids:
            self._check_ids()
        elif os.geteuid() == 0 and self.measures != {NO_NEW_PRIVS}:
            (first, *_) = sorted(self.measures - {NO_NEW_PRIVS})
            reason = "sessions of root's may write to the disks themselves, whatever else they may not"
            raise HardeningUnavailable(first, reason, f"add {OWN_UID}, or start the daemon under another account")
        for path in self.writable:
            if not os.path.isdir(path):
                raise HardeningUnavailable(READ_ONLY, f"{path}, to stay writable, is no folder", "make it first")
        with tempfile.TemporaryDirectory(prefix="dspy-bridge-") as root:
            place = Path(root).resolve() / "0"
            folder = place / "tmp"
            folder.mkdir(parents=True)
            uid = self.uids[-1] if self.uids else 0  # the one most likely to be nobody's, where sessions exist
            confinement = self.confinement(uid, place, folder)
            if confinement.uid:
                place.chmod(0o755)
                os.chown(folder, confinement.uid, confinement.uid)
            self._try_on(confinement, python, packages)

    def _check_ids(self) -> None:
        lacking = _lacking()
        if lacking:
            raise HardeningUnavailable(OWN_UID, f"the daemon lacks {', '.join(lacking)}", _NO_ROOT)
        for owner, ids in accounts():
            if max(ids.start, self.uids.start) < min(ids.stop, self.uids.stop):
                reason = f"ids from {ids[0]} on are {owner}'s"
                raise HardeningUnavailable(OWN_UID, reason, "give a range of ids that nobody else uses")

    def _try_on(self, confinement: Confinement, python: str, packages: Sequence[str]) -> None:
        finds = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
        command = [python, "-m", "session_supervisor.confinement", confinement.pack().hex()]
        try:
            tried = subprocess.run(
                [*command, python, "-c", finds, *packages],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise HardeningUnavailable(NO_NEW_PRIVS, f"{python} does not run: {exc}", "see --python") from None
        if not tried.returncode:
            return
        said = (tried.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        measure, _, reason = said.partition(": ")
        if "scratch folder" in reason:
            raise HardeningUnavailable(measure, reason, "set TMPDIR to a folder that every account can pass through")
        if self.uids and (measure == OWN_UID or measure not in MEASURES):
            remedy = (
                f"install {python} and its packages where every account can read them (not below a home folder), "
                "or name another interpreter by --python"
            )
            raise HardeningUnavailable(OWN_UID, f"the id {confinement.uid} cannot use {python} ({said})", remedy)
        if measure not in MEASURES:
            raise HardeningUnavailable(READ_ONLY, f"{python} cannot be used then ({said})", "see --python")
        raise HardeningUnavailable(measure, reason, _NO_NAMESPACES)


def _lacking() -> list[str]:
    """What of root's rights this process does not have."""
    if os.geteuid() != 0:
        return ["root"]
    held = namespaces.capabilities()
    return [f"CAP_{name}" for name, bit in {**_NEEDED, **_NEEDED_BESIDES}.items() if not held >> bit & 1]


def accounts() -> Iterator[tuple[str, range]]:
    """Whose which ids are: those of users and groups, and those that users may give to containers."""
    for user in pwd.getpwall():
        yield user.pw_name, range(user.pw_uid, user.pw_uid + 1)
    for group in grp.getgrall():
        yield f"the group {group.gr_name}", range(group.gr_gid, group.gr_gid + 1)
    for path in ("/etc/subuid", "/etc/subgid"):
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                name, first, count = [*line.split(":"), "", ""][:3]
                if first.isdecimal() and count.isdecimal():
                    yield f"{name} in {path}", range(int(first), int(first) + int(count))


def parse_ids(text: str) -> range:
    """``"200000-265535"`` as a range. Raises ``ValueError``."""
    first, dash, last = text.partition("-")
    if not dash or not first.strip().isdecimal() or not last.strip().isdecimal() or int(first) > int(last):
        raise ValueError(f"{text!r} is no range of ids, such as 200000-265535")
    return range(int(first), int(last) + 1)
