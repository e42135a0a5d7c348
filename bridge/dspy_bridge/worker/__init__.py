"""What runs in a session's interpreter. Only this package of the bridge imports DSPy."""
