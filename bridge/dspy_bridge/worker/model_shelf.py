"""The models of one session: the one it uses by itself, and those it has given names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import dspy

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import referred_name
from dspy_bridge.protocol.secrets import split_secrets
from dspy_bridge.protocol.snapshot_parts import (
    LM,
    LM_CURSOR,
    LM_SECRETS,
    NAMED_LM_PREFIX,
    NAMED_LM_SECRETS_PREFIX,
    PROGRAM_SECRETS_PREFIX,
)
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.models import Model, build_lm
from dspy_bridge.worker.scripted import ScriptedLM
from dspy_bridge.worker.state import State
from dspy_bridge.worker.types import bad


class ModelShelf:
    """``default``: the session's own model, if it has one."""

    def __init__(self, state: State, host: Host) -> None:
        self.default: Model | None = None
        self._state = state
        self._host = host
        self._named: dict[str, Model] = {}

    @property
    def lm(self) -> dspy.BaseLM | None:
        """The session's own model as DSPy knows it."""
        return self.default.made if self.default is not None else None

    def _build(self, config: Mapping[str, Any]) -> dspy.BaseLM:
        return build_lm(config, self._host)

    def be_as_born(self, config: Mapping[str, Any] | None, missing: Iterable[str] | None) -> None:
        """As ``start_session`` said. ``missing``: literal secrets lost since (None: it has just been said)."""
        self._named.clear()
        if config is None:
            self.default = None
        elif missing is None:
            self.default = Model.configure(config, self._build)
        else:
            self.default = Model.restore(*split_secrets(config), missing, self._build)

    def configure(self, config: Mapping[str, Any], name: str | None) -> None:
        """Set the session's own model, or one with a name. Raises as :func:`.models.build_lm` does."""
        model = Model.configure(config, self._build)
        if name is not None:
            self._named[name] = model
            self._state.put(NAMED_LM_PREFIX + name, model.part)
            self._state.put(NAMED_LM_SECRETS_PREFIX + name, model.secrets or None)
            return
        self.default = model
        dspy.configure(lm=model.made)
        self._state.put(LM, model.part)
        self._state.put(LM_SECRETS, model.secrets or None)
        self._state.put(LM_CURSOR, None)

    def load(self, names: Iterable[str]) -> bool:
        """Parts of these names are news; whether some model with a name has changed."""
        names = set(names)
        if names & {LM, LM_SECRETS}:
            part = self._state.get(LM)
            if part is not None:
                secrets = self._state.get(LM_SECRETS) or {}
                self.default = Model.restore(part["config"], secrets, part["secret_fields"], self._build)
                dspy.configure(lm=self.lm)
        if LM_CURSOR in names:
            cursor = self._state.get(LM_CURSOR)
            if cursor is not None and isinstance(self.lm, ScriptedLM):
                self.lm.set_state(cursor)
        renamed = any(name.startswith((NAMED_LM_PREFIX, NAMED_LM_SECRETS_PREFIX)) for name in names)
        if renamed:
            self._named.clear()
        return renamed

    def note_cursor(self) -> None:
        """Keep how far a scripted model has come."""
        if isinstance(self.lm, ScriptedLM):
            self._state.put(LM_CURSOR, self.lm.get_state())

    def find(self, config: Mapping[str, Any]) -> Model:
        """The model a program or a request asks for, by its configuration or by its name in the session."""
        name = referred_name(config)
        if name is None:
            return Model.configure(config, self._build)
        if len(config) > 1:
            raise bad("args.lm", "a named model takes no further arguments; config of a request changes its options")
        return self._by_name(name)

    def restore(self, program_id: str, config: Mapping[str, Any], secret_fields: Iterable[str]) -> Model:
        """A program's model as it was; what it lacks is an error only when it is used."""
        name = referred_name(config)
        if name is None:
            secrets = self._state.get(PROGRAM_SECRETS_PREFIX + program_id) or {}
            return Model.restore(config, secrets, secret_fields, self._build)
        try:
            return self._by_name(name)
        except BridgeError as error:
            return Model(dict(config), {}, problem=error)

    def named(self, name: str) -> dspy.BaseLM:
        """The model of that name itself. Raises ``lm_not_configured``."""
        return self._by_name(name).usable()

    def _by_name(self, name: str) -> Model:
        """Raises ``lm_not_configured``."""
        model = self._named.get(name)
        if model is None:
            part = self._state.get(NAMED_LM_PREFIX + name)
            if part is None:
                known = [one[len(NAMED_LM_PREFIX) :] for one in self._state if one.startswith(NAMED_LM_PREFIX)]
                message = f"the session has no model named {name!r}; it has {', '.join(known) or 'none'}"
                raise BridgeError("lm_not_configured", message)
            secrets = self._state.get(NAMED_LM_SECRETS_PREFIX + name) or {}
            model = self._named[name] = Model.restore(part["config"], secrets, part["secret_fields"], self._build)
        return model

    def all(self) -> list[Model]:
        """Every one that has been made."""
        return [*([self.default] if self.default is not None else []), *self._named.values()]
