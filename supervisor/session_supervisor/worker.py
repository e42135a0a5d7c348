"""One interpreter for one session, for life: the process around the application's serve function.

Run as ``python -m session_supervisor.worker`` by the spawn launcher; called directly, after the
fork, by the template. Either way :func:`run` never returns.
"""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from session_supervisor.channel import Channel, ChannelClosed
from session_supervisor.hygiene import InterruptGate, become_worker

ServeFunction = Callable[[Channel, InterruptGate], None]
"""What an application gives: serve the channel until ``STOP`` or its end."""


def resolve(reference: str) -> Any:
    """The object named by ``"package.module:attribute"``. Import errors pass through."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def run(channel_fd: int, log_fd: int, supervisor_pid: int, born_of: int, serve: ServeFunction | str) -> NoReturn:
    """Become a worker and serve. Leaves by ``os._exit``: threads a program left must not hold us.

    Exit codes: 0 told to stop or the supervisor is gone, 1 the application failed, 70 orphaned at birth.
    """
    code = 1
    try:
        gate = become_worker(log_fd, supervisor_pid, born_of)
        function: ServeFunction = resolve(serve) if isinstance(serve, str) else serve
        function(Channel(socket.socket(fileno=channel_fd)), gate)
        code = 0
    except (ChannelClosed, BrokenPipeError, ConnectionResetError):
        code = 0
    except BaseException:  # noqa: BLE001 - the last frame of the process: say why, then leave
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="session_supervisor.worker")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--log", type=int, required=True)
    parser.add_argument("--supervisor", type=int, required=True)
    parser.add_argument("--serve", required=True)
    options = parser.parse_args()
    # Inherited across exec on purpose; from here on no program we start may hold them.
    os.set_inheritable(options.channel, False)
    os.set_inheritable(options.log, False)
    run(options.channel, options.log, options.supervisor, options.supervisor, options.serve)


if __name__ == "__main__":
    main()
