"""The Linux calls a process shuts itself in with: namespaces, mounts, capabilities, ids.

Each is a thin name for what the kernel offers and raises ``OSError``. The calls without a function in the
C library have the same number on every machine (they are younger than that agreement).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from pathlib import Path
from typing import Any, Final

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_RESOLVE_NO_SYMLINKS: Final = 4
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_MOUNT_ATTR_RDONLY: Final = 1
_MOUNT_ATTR_NOSUID: Final = 2
_MOUNT_ATTR_NODEV: Final = 4
_MS_NOSUID_NODEV_NOEXEC: Final = 14
_MS_PRIVATE: Final = 1 << 18

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x2008_0522
_MOST_CAPABILITIES: Final = 64

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class _HowToOpen(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _syscall(number: int, what: str, *args: Any) -> int:
    # A variadic function takes whole registers; a plain int would leave half of one as it was.
    whole = [ctypes.c_long(one) if isinstance(one, int) else one for one in args]
    return _checked(_libc.syscall(ctypes.c_long(number), *whole), what)


def _prctl(option: int, argument: int = 0) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0), f"prctl({option})")


# -- privileges ------------------------------------------------------------------------------------


def no_new_privileges() -> None:
    """No program this process or a descendant starts gets more rights by its file: setuid gives nothing."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def forgo_capabilities() -> None:
    """Bar the way back to any capability for this process and its descendants, while it still may."""
    _checked(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "the ambient capabilities")
    for capability in range(_MOST_CAPABILITIES):
        if (
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) and ctypes.get_errno() != errno.EINVAL
        ):  # which says: no more
            _checked(-1, "the bounding set")


def drop_capabilities() -> None:
    """Give up every capability, for good if :func:`forgo_capabilities` came before."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def become(uid: int) -> None:
    """The ids ``uid`` for good, for user and group, and no other group."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    drop_capabilities()
    # The kernel treats whoever changed ids as a secret; it is an ordinary process of its new account now.
    _prctl(_PR_SET_DUMPABLE, 1)


# -- namespaces ------------------------------------------------------------------------------------


def unshare(flags: int) -> None:
    """Leave the namespaces ``flags`` name for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def enter_user_namespace() -> None:
    """A user namespace of its own, in which this process has every capability, under the same ids."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


# -- mounts ----------------------------------------------------------------------------------------


def _set_attributes(where: int, path: str, flags: int, attributes: _MountAttributes) -> None:
    size = ctypes.sizeof(attributes)
    name = path.encode(errors="surrogateescape")
    _syscall(_SYS_MOUNT_SETATTR, f"mount_setattr({path})", where, name, flags, ctypes.byref(attributes), size)


def make_private() -> None:
    """Mounts made here are not seen elsewhere, nor theirs here."""
    _set_attributes(_AT_FDCWD, "/", _AT_RECURSIVE, _MountAttributes(propagation=_MS_PRIVATE))


def make_read_only(path: str) -> None:
    """Everything mounted at and below ``path``; no setuid program there has an effect."""
    attributes = _MountAttributes(attr_set=_MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID)
    _set_attributes(_AT_FDCWD, path, _AT_RECURSIVE, attributes)


def clone_tree(path: str) -> int:
    """A descriptor of what is at ``path`` now, to be put somewhere by :func:`attach`. ``path`` leads through
    no link: whoever may write there could otherwise have laid one to where he may not."""
    how = _HowToOpen(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    name = path.encode(errors="surrogateescape")
    there = _syscall(_SYS_OPENAT2, f"open({path})", _AT_FDCWD, name, ctypes.byref(how), ctypes.sizeof(how))
    try:
        flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | _AT_EMPTY_PATH | os.O_CLOEXEC
        return _syscall(_SYS_OPEN_TREE, f"open_tree({path})", there, b"", flags)
    finally:
        os.close(there)


def clone_folder(path: str) -> int:
    """As :func:`clone_tree`, with neither setuid programs nor devices in it."""
    tree = clone_tree(path)
    attributes = _MountAttributes(attr_set=_MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV)
    try:
        _set_attributes(tree, "", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes)
    except OSError:
        os.close(tree)
        raise
    return tree


def attach(tree: int, path: str) -> None:
    """Put ``tree`` at ``path`` and close its descriptor."""
    name = path.encode(errors="surrogateescape")
    try:
        _syscall(_SYS_MOVE_MOUNT, f"move_mount({path})", tree, b"", _AT_FDCWD, name, _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def mount(kind: str, path: str, options: str) -> None:
    """A new file system of that kind at ``path``."""
    arguments = (kind.encode(), path.encode(errors="surrogateescape"), kind.encode())
    _checked(_libc.mount(*arguments, ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC), options.encode()), f"mount({path})")


def capabilities() -> int:
    """This process's effective capabilities, as the kernel numbers their bits."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0
