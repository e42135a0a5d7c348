"""``python -m dspy_bridge.cli``: the same as ``bridge-cli``."""

from dspy_bridge.cli import main

if __name__ == "__main__":
    main(prog_name="bridge-cli")
