"""SIGHUP: the configuration is read again, and interpreters are made anew, while the daemon serves.

A reload takes effect as a whole or not at all. The files are read, hardening is tried on, the log is opened,
and a launcher (a template with the code that is on disk now) is started beside the one that serves. Only when
it is ready do the new options count; from then on interpreters come from it, and those that serve sessions are
replaced between requests, a few at a time. Whatever fails before leaves everything as it was.

There is one at a time. Being asked during one, or before the daemon serves, means one more afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from dspy_bridge.daemon.configuration import BadConfiguration, Configuration, Revision
from dspy_bridge.daemon.logs import log_handler, log_to
from dspy_bridge.daemon.notify import Notifier
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.protocol.envelope import timestamp
from session_supervisor.hardening import HardeningUnavailable
from session_supervisor.launchers.base import Launcher
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Reaper
from session_supervisor.supervisor import Supervisor

logger = logging.getLogger(__name__)

_TRIED_ON: Final = frozenset(("python", "allow_data", "shared_cache"))
"""Options that decide whether sessions can be shut in, which takes a moment to try."""


class Reloading:
    """See the module. ``check(options)`` raises :class:`HardeningUnavailable` if sessions could not be shut in
    by these; ``adopted(revision)`` puts options that have just come into force into effect;
    ``announce(facts)`` tells hosts of a reload."""

    def __init__(
        self,
        configuration: Configuration,
        supervisor: Supervisor,
        notifier: Notifier,
        check: Callable[[DaemonOptions], None],
        make_launcher: Callable[[Reactor, Reaper, DaemonOptions], Launcher],
        adopted: Callable[[Revision], None],
        announce: Callable[[dict[str, Any]], None],
    ) -> None:
        self._configuration = configuration
        self._supervisor = supervisor
        self._notifier = notifier
        self._check = check
        self._make_launcher = make_launcher
        self._adopted = adopted
        self._announce = announce
        self._possible = False  # the daemon serves, and no reload is under way
        self._asked = False
        self._count = 0
        self._failed = 0
        self._last: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Facts for statistics."""
        return {
            "under_way": not self._possible,
            "count": self._count,
            "failed": self._failed,
            "last": self._last,
            "outdated_workers": self._supervisor.outdated,
        }

    def ask(self) -> None:
        """Reload, now or as soon as that is possible."""
        if self._supervisor.draining:
            logger.info("asked to reload while shutting down; there is nothing to reload for")
        elif self._possible:
            self._begin()
        else:
            self._asked = True

    def allow(self) -> None:
        """From now on it is possible."""
        self._possible = True
        if self._asked:
            self.ask()

    def _begin(self) -> None:
        self._possible = self._asked = False
        self._notifier.reloading()
        try:
            revision = self._configuration.revise()
            if _TRIED_ON.intersection(revision.changed):
                self._check(revision.resolved.options)
            handler = log_handler(revision.resolved.options)
        except (BadConfiguration, HardeningUnavailable, OSError) as exc:
            self._end(None, str(exc))
            return

        def renewed(reason: str | None) -> None:
            if reason is not None:
                handler.close()
            else:
                reason = self._tried(lambda: self._adopt(revision, handler))
            self._end(revision, reason)

        options = revision.resolved.options

        def renew() -> None:
            self._supervisor.renew(lambda reactor, reaper: self._make_launcher(reactor, reaper, options), renewed)

        reason = self._tried(renew)
        if reason is not None:
            handler.close()
            self._end(revision, reason)

    def _adopt(self, revision: Revision, handler: logging.Handler) -> None:
        log_to(handler, revision.resolved.options.log_level)
        self._configuration.adopt(revision)
        self._adopted(revision)
        self._supervisor.roll_over()

    @staticmethod
    def _tried(step: Callable[[], None]) -> str | None:
        """Why ``step`` failed, if it did: a fault of ours must not be the end of all reloading."""
        try:
            step()
        except Exception as exc:
            logger.exception("a step of the reload failed")
            return f"{type(exc).__name__}: {exc}"
        return None

    def _end(self, revision: Revision | None, reason: str | None) -> None:
        """It is over, because of ``reason`` if it has failed."""
        if reason is None and revision is not None:
            self._count += 1
            said = {"changed": list(revision.changed), "needs_restart": list(revision.waiting)}
            self._last = {"success": True, "at": timestamp(), **said}
            logger.info("reloaded; options changed: %s", ", ".join(revision.changed) or "none")
            if revision.waiting:
                named = ", ".join(revision.waiting)
                logger.warning("options that need a restart of the daemon keep their values until then: %s", named)
            self._tried(lambda: self._announce(said))
        else:
            self._failed += 1
            self._last = {"success": False, "at": timestamp(), "message": reason}
            logger.error("the reload failed, and everything is as it was: %s", reason)
        self._notifier.tell("READY=1")
        self.allow()
