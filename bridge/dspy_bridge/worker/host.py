"""The host as seen from a program: it can be told (events) and asked (calls), from any thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.protocol.envelope import event_tail, host_call_tail
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.state import State
from session_supervisor.channel import Channel, ChannelClosed, NothingUnderWay
from session_supervisor.frames import Kind
from session_supervisor.snapshot import encode_parts

DEFAULT_TIMEOUT_S: Final = 120.0


class Host:
    """Whoever sent the request under way; without a channel, nobody."""

    def __init__(self, channel: Channel | None) -> None:
        self._channel = channel

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Send one event of the request under way; after its end, nothing. ``data`` must be JSON-able."""
        serving = self._channel.under_way() if self._channel is not None else None
        if self._channel is not None and serving is not None:
            self._channel.send_event(serving, event_tail(event, data))

    def trace(self, span: list[Any]) -> None:
        """Tell the daemon, not the host, what the request under way did."""
        serving = self._channel.under_way() if self._channel is not None else None
        if self._channel is not None and serving is not None:
            self._channel.send(Kind.TRACE, serving, jsonlib.dumps(span))

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Wait for one of the daemon's leases and hold it."""
        assert self._channel is not None  # nobody leases for practice
        with self._channel.lease():
            yield

    def keep(self, state: State) -> None:
        """Have the supervisor take over now what has changed, whatever becomes of the request. After its end
        that waits for the next one's."""
        channel = self._channel
        serving = channel.under_way() if channel is not None else None
        if channel is not None and serving is not None:
            state.hand_over(lambda changed: channel.send(Kind.CHECKPOINT, serving, encode_parts(changed)))

    def ask(
        self,
        call: str,
        name: str,
        args: dict[str, Any],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        on_piece: Callable[[str, Any], None] | None = None,
    ) -> Any:
        """What the host answers to ``call`` (``tool`` or ``lm``). ``on_piece(event, data)`` is told of each
        piece that comes first. Raises ``host_call_failed`` for an error, for none within ``timeout``
        seconds (of the last piece), and where there is nobody to ask."""
        what = f"the host's {call} {name!r}"
        try:
            if self._channel is None:
                raise NothingUnderWay
            with self._channel.call(host_call_tail(call, name, args)) as opened:
                while True:
                    said = jsonlib.loads(self._channel.answer(opened, timeout))
                    if "event" not in said:
                        break
                    if on_piece is not None:
                        on_piece(said["event"], said["data"])
        except TimeoutError:
            raise _failed(call, name, f"{what} did not answer within {timeout:g} s", "timeout") from None
        except NothingUnderWay:
            raise _failed(call, name, f"{what} was called after its request had ended", "late") from None
        except (ChannelClosed, OSError):
            raise _failed(call, name, f"{what} cannot be reached any more", "gone") from None
        if not said["success"]:
            error = said["error"]
            raise _failed(call, name, f"{what} failed: {error.get('message', error)}", "error", error)
        return said["result"]


def _failed(call: str, name: str, message: str, why: str, error: Any = None) -> BridgeError:
    details = {"call": call, "name": name, "why": why, "error": error}
    return BridgeError("host_call_failed", message, details=details)
