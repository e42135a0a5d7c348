"""Isolated interpreters as a service: processes and bytes, whatever they run."""
