"""The last line against orphans: a tiny process that outlives a killed supervisor and cleans up.

A supervisor that is SIGKILLed can do nothing any more. Its idle workers see their channel end and
leave; a busy one, and whatever it has started, may not look for a long time. The guardian holds a
pipe from the supervisor on which it is told each worker's process group (``+pid``) and, before that
pid is reaped, that it is gone (``-pid``). When the pipe ends it kills the groups still on the list
and removes the scratch folder. It learns of groups by the pipe alone, never by name or pid file.

Sessions that have ids of their own are killed by them, whatever groups their processes have escaped to:
it is told of an id that is in use (``=uid``), that everything under it is to end now (``!uid``), and that
it is in use no longer (``/uid``).

Run as a plain script by an isolated interpreter (no site, no packages): it must start in
milliseconds and stay small.
"""

import os
import shutil
import signal
import sys


def end_account(uid: int) -> None:
    """Kill everything that runs under ``uid``. Whoever is of that account and of no other may signal nobody
    else, so that one call reaches all of them at once; none can fork its way past it."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def main() -> None:
    scratch = sys.argv[1]
    os.setsid()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    groups: set[int] = set()
    accounts: set[int] = set()
    with open(0, "rb", closefd=False) as told:
        for line in told:
            what, number = line[:1], int(line[1:])
            if what == b"+":
                groups.add(number)
            elif what == b"-":
                groups.discard(number)
            elif what == b"=":
                accounts.add(number)
            elif what == b"!":
                end_account(number)
            elif what == b"/":
                accounts.discard(number)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            continue
    for account in accounts:
        end_account(account)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
