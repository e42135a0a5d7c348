"""The last line against orphans: a tiny process that outlives a killed supervisor and cleans up.

A supervisor that is SIGKILLed can do nothing any more. Its idle workers see their channel end and
leave; a busy one, and whatever it has started, may not look for a long time. The guardian holds a
pipe from the supervisor on which it is told each worker's process group (``+pid``) and, before that
pid is reaped, that it is gone (``-pid``). When the pipe ends it kills the groups still on the list
and removes the scratch folder. It learns of groups by the pipe alone, never by name or pid file.

Run as a plain script by an isolated interpreter (no site, no packages): it must start in
milliseconds and stay small.
"""

import os
import shutil
import signal
import sys


def main() -> None:
    scratch = sys.argv[1]
    os.setsid()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    groups: set[int] = set()
    with open(0, "rb", closefd=False) as told:
        for line in told:
            if line.startswith(b"+"):
                groups.add(int(line[1:]))
            else:
                groups.discard(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            continue
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
