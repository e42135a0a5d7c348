"""The names of the snapshot parts a session consists of.

The worker writes and reads the parts' contents; the daemon only looks at names, to say which
programs a session has. A name that starts with ``!`` is volatile: never on disk, never exported.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LM: Final = "lm"
"""The session's model: its configuration without literal secrets."""
LM_SECRETS: Final = "!lm"
"""The literal secrets of that configuration."""
LM_CURSOR: Final = "!lm.cursor"
"""How far a scripted model's answers have been served."""
SETTINGS: Final = "settings"
VARIABLE_PREFIX: Final = "variable:"
"""What ``set_state`` keeps; written by the daemon, never by a worker but to reset."""
PROGRAM_PREFIX: Final = "program:"
PROGRAM_SECRETS_PREFIX: Final = "!program.secrets:"
PROGRAM_COUNT_PREFIX: Final = "!program.count:"


def program_ids(names: Iterable[str]) -> list[str]:
    """Which programs these parts hold, in the order they were made."""
    return [name[len(PROGRAM_PREFIX) :] for name in names if name.startswith(PROGRAM_PREFIX)]
