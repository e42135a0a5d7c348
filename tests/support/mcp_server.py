"""An MCP server for tests: over its standard input and output, or with a port number over HTTP."""

from __future__ import annotations

import os
import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("test")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def fail(why: str) -> str:
    """Fails."""
    raise ValueError(why)


@server.tool()
def whoami() -> str:
    """Says who it is."""
    return f"{os.getpid()} {os.environ.get('TEST_MCP_TOKEN', 'nobody')}"


@server.tool()
def dawdle() -> str:
    """Takes its time."""
    time.sleep(600)
    return "late"


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
