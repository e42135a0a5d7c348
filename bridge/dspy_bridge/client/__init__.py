"""Clients in Python. :func:`dspy_bridge.connect` and :func:`dspy_bridge.aconnect` are for programs and tests;
:class:`Client` is the plain one the command line is made of."""

from dspy_bridge.client.blocking import Client
from dspy_bridge.client.errors import CommandFailed, TransportError, UsedAfterFork

__all__ = ["Client", "CommandFailed", "TransportError", "UsedAfterFork"]
