"""Tools that live in MCP servers: commands this session runs, or URLs.

MCP's client is asynchronous and DSPy's programs are not, so that one thread of the session runs an event
loop in which each server has a task of its own. A server that has gone is connected again when it is
next needed; a command dies with the session's interpreter.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import os
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

import dspy

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.session_commands import McpServer
from dspy_bridge.worker.tools import ObservedTool
from session_supervisor.leash import leashed

T = TypeVar("T")

_CONNECT_S: Final = 30.0


class McpServers:
    """Those of one session. ``allowed``: whether the operator lets sessions have any."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: dict[str, _Connection] = {}
        self._changing = threading.Lock()

    def tools(self, servers: Sequence[McpServer]) -> list[dspy.Tool]:
        """Every tool of them a program may use. Raises ``unsupported``, ``invalid_args``, and ``tool_error``
        for a server that cannot be reached."""
        if servers and not self._allowed:
            message = "MCP servers are not allowed here; the daemon's operator allows them by --allow-mcp"
            raise BridgeError("unsupported", message)
        if servers and importlib.util.find_spec("mcp") is None:
            message = "MCP servers need mcp: install it where the daemon runs (the extra dspy-bridge[mcp] has it)"
            raise BridgeError("unsupported", message)
        return [tool for server in servers for tool in self._tools_of(server)]

    def _tools_of(self, server: McpServer) -> list[dspy.Tool]:
        offered = {tool.name: tool for tool in self._connected(server).offered}
        for name in server.tools or ():
            if name not in offered:
                message = f"the MCP server {server.label} has no tool {name!r}; it has {', '.join(offered) or 'none'}"
                raise BridgeError("invalid_args", f"args.mcp: {message}")
        return [
            self._tool(server, tool) for name, tool in offered.items() if server.tools is None or name in server.tools
        ]

    def _tool(self, server: McpServer, offered: Any) -> dspy.Tool:
        described = dspy.Tool.from_mcp_tool(None, offered)

        def call(**args: Any) -> Any:
            # A failing tool is something the agent observes: DSPy would put a traceback into the prompt.
            connection = None
            try:
                connection = self._connected(server)
                ask = dspy.Tool.from_mcp_tool(connection.client, offered).func(**args)
                return self._run(ask, server.timeout_ms / 1000)
            except (TimeoutError, concurrent.futures.TimeoutError):  # one and the same from Python 3.11 on
                return f"Error: {offered.name} did not answer within {server.timeout_ms / 1000:g} s"
            except Exception as exc:  # noqa: BLE001 - whatever a server or its transport makes of it
                if connection is not None and not isinstance(exc, RuntimeError):  # which says that the tool failed
                    connection.close()
                return f"Error: {_say(exc)}"

        return ObservedTool(
            call,
            name=server.prefix + offered.name,
            desc=described.desc,
            args=described.args,
            arg_types=described.arg_types,
            arg_desc=described.arg_desc,
        )

    # -- the loop ------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Raises ``TimeoutError``, and whatever ``work`` raises."""
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def _connected(self, server: McpServer) -> _Connection:
        """A living connection. Raises ``tool_error``."""
        with self._changing:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="mcp", daemon=True).start()
            key = server.model_dump_json()
            connection = self._connections.get(key)
            if connection is None or connection.ended:
                connection = _Connection(server, self._loop)
                try:
                    self._run(connection.open(), _CONNECT_S)
                except Exception as exc:
                    message = f"the MCP server {server.label} cannot be reached: {_say(exc)}"
                    raise BridgeError("tool_error", message, details={"server": server.label}) from exc
                self._connections[key] = connection
            return connection


class _Connection:
    """Lives in the loop. Its task enters and leaves the client, which must be one and the same."""

    def __init__(self, server: McpServer, loop: asyncio.AbstractEventLoop) -> None:
        self.client: Any = None
        self.offered: list[Any] = []
        self.ended = False
        self._server = server
        self._loop = loop
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises what keeps it from being opened."""
        opened = self._loop.create_future()
        self._task = self._loop.create_task(self._live(opened))
        await opened

    def close(self) -> None:
        """Called from any thread; it is not to be used again."""
        self.ended = True
        self._loop.call_soon_threadsafe(self._closing.set)

    async def _live(self, opened: asyncio.Future[None]) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                self.client = await stack.enter_async_context(_client(self._server))
                self.offered = await _list_tools(self.client)
                opened.set_result(None)
                await self._closing.wait()
        except BaseException as exc:  # noqa: BLE001 - the loop has nobody else to tell
            if not opened.done():
                opened.set_exception(exc if isinstance(exc, Exception) else ConnectionError("it was interrupted"))
        finally:
            self.ended = True


async def _list_tools(client: Any) -> list[Any]:
    tools: list[Any] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            return tools


def _client(server: McpServer) -> Any:
    import mcp

    if server.command is not None:
        program, *arguments = leashed(server.command)
        passed = {name: os.environ[name] for name in server.env_from if name in os.environ}
        parameters = mcp.StdioServerParameters(command=program, args=arguments, env=passed, cwd=server.cwd)
        return mcp.Client(parameters)
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    assert server.url is not None
    headers = {header: _variable(name) for header, name in server.headers_from.items()}
    timeout = httpx2.Timeout(_CONNECT_S, read=server.timeout_ms / 1000)
    client = httpx2.AsyncClient(headers=headers, timeout=timeout)
    return mcp.Client(streamable_http_client(server.url, http_client=client))


def _variable(name: str) -> str:
    """Raises ``ValueError``."""
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"the environment variable {name!r}, which is to hold a header, is not set")
    return value


def _say(exc: BaseException) -> str:
    """What went wrong, out of the groups that task groups make of it."""
    while isinstance(inner := getattr(exc, "exceptions", (None,))[0], BaseException):
        exc = inner
    return f"{exc}" or type(exc).__name__
