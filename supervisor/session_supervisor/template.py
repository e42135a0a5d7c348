"""The template process: a warm interpreter that does nothing but fork.

Run as ``python -m session_supervisor.template``. It imports what the application preloads, freezes
the garbage collector's view of it (so that a collection in a child does not copy every page), and
then forks on request. It is single-threaded, blocking and never runs a session's code; before each
fork it checks that this is still so and names what broke it, because a fork of a process with
threads or open connections is a fork that hangs.

A worker is forked twice: the process between hands over the pid and exits, so that the worker's
parent is the supervisor (a subreaper), which reaps it itself and which it outlives the template with.

Messages are internal frames over a ``SOCK_SEQPACKET`` socket, one frame a packet:
``FORK n`` with two descriptors (channel, log) in; ``READY``, ``FORKED n`` (body: pid), ``DIRTY n``
(body: culprits), ``REFUSED n`` (body: why the system would not fork), ``FAILED`` (body: why, traceback)
out. End of the socket means: the supervisor is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import gc
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Final

from session_supervisor.hygiene import claim_standard_descriptors
from session_supervisor.os_facts import die_with_parent, native_threads, open_descriptors
from session_supervisor.worker import ServeFunction, resolve, run

PACKET: Final = struct.Struct("<BQ")
MAX_PACKET: Final = 1 << 16


class Message(enum.IntEnum):
    FORK = 1
    READY = 2
    FORKED = 3
    DIRTY = 4
    REFUSED = 5
    FAILED = 6


def pack_message(message: Message, number: int = 0, body: bytes = b"") -> bytes:
    return PACKET.pack(message, number) + body


def unpack_message(packet: bytes) -> tuple[Message, int, bytes]:
    code, number = PACKET.unpack_from(packet)
    return Message(code), number, packet[PACKET.size :]


def find_stains(known_descriptors: set[int]) -> list[str]:
    """What makes this process unfit to fork, in words; empty when it is virgin."""
    stains = []
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if names:
        stains.append(f"threads are running: {', '.join(sorted(names))}")
    elif native_threads() > 1:
        stains.append(f"{native_threads() - 1} native thread(s) are running that Python did not start")
    stains += [
        f"descriptor {fd} was left open: {_describe_descriptor(fd, target)}"
        for fd, target in sorted(open_descriptors().items())
        if fd not in known_descriptors
    ]
    return stains


def _describe_descriptor(fd: int, target: str) -> str:
    if not target.startswith("socket:"):
        return target
    with socket.socket(fileno=os.dup(fd)) as copy:
        try:
            return f"a socket connected to {copy.getpeername()}"
        except OSError:
            return f"a socket bound to {copy.getsockname()}"


class Template:
    """The forking loop. ``verify`` is the application's own check: culprits in words, or nothing."""

    def __init__(
        self,
        control: socket.socket,
        supervisor_pid: int,
        serve: ServeFunction,
        verify: Callable[[], Iterable[str]],
        known_descriptors: set[int],
    ) -> None:
        self._control = control
        self._supervisor_pid = supervisor_pid
        self._serve = serve
        self._verify = verify
        self._known = known_descriptors

    def run(self) -> None:
        """Fork on request until the supervisor closes the socket."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the supervisor has gone
            self._serve_requests()

    def _serve_requests(self) -> None:
        self._control.send(pack_message(Message.READY))
        while True:
            packet, descriptors, _flags, _address = socket.recv_fds(self._control, MAX_PACKET, 2)
            if not packet:
                return
            _message, number, _body = unpack_message(packet)
            try:
                stains = self.find_stains(descriptors)
                if stains:
                    self._control.send(pack_message(Message.DIRTY, number, "; ".join(stains).encode()))
                else:
                    self._fork(number, *descriptors)
            except OSError as exc:
                self._control.send(pack_message(Message.REFUSED, number, str(exc).encode()))
            finally:
                for fd in descriptors:
                    os.close(fd)

    def find_stains(self, received: Iterable[int] = ()) -> list[str]:
        """Why no fork may be made now, in words; ``received`` are descriptors that are meant to be open."""
        return [*find_stains(self._known | set(received)), *self._verify()]

    def _fork(self, number: int, channel_fd: int, log_fd: int) -> None:
        between = os.fork()
        if between:
            _pid, status = os.waitpid(between, 0)
            if status:
                raise OSError(f"the process between template and worker ended with status {status}")
            return
        between = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid:
            self._control.send(pack_message(Message.FORKED, number, struct.pack("<I", pid)))
            os._exit(0)
        self._control.close()
        run(channel_fd, log_fd, self._supervisor_pid, between, self._serve)


def main() -> None:
    parser = argparse.ArgumentParser(prog="session_supervisor.template")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--supervisor", type=int, required=True)
    parser.add_argument("--preload", required=True)
    parser.add_argument("--verify", required=True)
    parser.add_argument("--serve", required=True)
    options = parser.parse_args()

    os.setsid()  # a terminal's Ctrl-C is the supervisor's to handle
    die_with_parent()
    if os.getppid() != options.supervisor:
        sys.exit(0)
    claim_standard_descriptors(os.dup(2))
    os.set_inheritable(options.control, False)
    control = socket.socket(fileno=options.control)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    known = set(open_descriptors())
    try:
        resolve(options.preload)()
        serve, verify = resolve(options.serve), resolve(options.verify)
    except BaseException as exc:  # noqa: BLE001 - whatever a preload does wrong must be shown, not swallowed
        what = "".join(traceback.format_exception_only(exc)).encode(errors="backslashreplace")[: MAX_PACKET // 4]
        where = traceback.format_exc().encode(errors="backslashreplace")[-MAX_PACKET // 2 :]
        control.send(pack_message(Message.FAILED, 0, what + where))
        sys.exit(1)
    # Files a preload opened are shared harmlessly; a connection is not, and stays a stain.
    known |= {fd for fd, target in open_descriptors().items() if not target.startswith("socket:")}
    template = Template(control, options.supervisor, serve, verify, known)
    stains = template.find_stains()
    if stains:
        reason = "the preload left the template unfit to fork: " + "; ".join(stains)
        control.send(pack_message(Message.FAILED, 0, reason.encode()))
        sys.exit(1)
    # Not before the preload, though that would be done sooner: its garbage would leave holes in the heap, and every
    # worker that fills some of them copies the pages around them, a MiB in all.
    gc.disable()
    gc.collect()
    gc.freeze()
    template.run()


if __name__ == "__main__":
    main()
