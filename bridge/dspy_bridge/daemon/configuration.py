"""Where each of a daemon's options comes from: its default, a file, the environment or a flag; the later wins.

defaults < the user's ``bridge.toml`` < the project's (``bridge.toml``, or ``[tool.dspy-bridge]`` of
``pyproject.toml``, in the working directory) < ``DSPY_BRIDGE_*`` < flags. All of them are
:class:`~dspy_bridge.daemon.options.DaemonOptions`: the one place an option is defined.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import platformdirs
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.protocol.arguments import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENVIRONMENT_PREFIX: Final = "DSPY_BRIDGE_"
_FILE: Final = "bridge.toml"


class BadConfiguration(Exception):
    """Says where, which option, and what is wrong with it. Raised by :func:`resolve`."""


@dataclass(frozen=True)
class Layer:
    """``name``: as a person would say where it is from."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """The options in force, and for each that is not a default the layer it came from."""

    options: DaemonOptions
    origins: Mapping[str, str] = field(default_factory=dict)

    def origin(self, option: str) -> str:
        return self.origins.get(option, "default")


@dataclass(frozen=True)
class Revision:
    """What a daemon is to go on with. ``changed``: options whose values differ from those in force.
    ``waiting``: those that were set anew but keep their values until the daemon is restarted."""

    resolved: Resolved
    changed: Sequence[str]
    waiting: Sequence[str]


class Configuration:
    """The options of a daemon in force (:attr:`options`), shared by all who need them, and where they are from.

    ``flags``, ``environ`` and ``folder`` are those of its start, for good. Raises :class:`BadConfiguration`.
    """

    def __init__(self, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, folder: Path | None = None):
        self._sources = (dict(flags), dict(environ), folder or Path.cwd())
        self.resolved = resolve(*self._sources)
        self.waiting: Sequence[str] = ()

    @property
    def options(self) -> DaemonOptions:
        return self.resolved.options

    def revise(self) -> Revision:
        """Look at files again; nothing has changed yet. Raises :class:`BadConfiguration`."""
        present, found = self.resolved, resolve(*self._sources)
        differ = [name for name, value in found.options if value != getattr(present.options, name)]
        waiting = [name for name in differ if DaemonOptions.change(name) == "restart"]
        kept = {name: getattr(present.options, name) for name in waiting}
        origins = {name: found.origin(name) for name in DaemonOptions.model_fields}
        origins |= {name: present.origin(name) for name in waiting}
        resolved = Resolved(found.options.model_copy(update=kept), origins)
        return Revision(resolved, [name for name in differ if name not in kept], waiting)

    def adopt(self, revision: Revision) -> None:
        """Its options are in force from now on."""
        self.resolved, self.waiting = revision.resolved, revision.waiting


def resolve(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> Resolved:
    """The options of a daemon started in ``folder`` with these flags (those given). Raises
    :class:`BadConfiguration`."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in (*_files(folder or Path.cwd()), _environment(environ), Layer("flag", flags)):
        for name, value in layer.values.items():
            if name not in DaemonOptions.model_fields:
                hint = did_you_mean(hyphenated(name), map(hyphenated, DaemonOptions.model_fields))
                raise BadConfiguration(f"{layer.name}: there is no option {hyphenated(name)!r}{hint}")
            values[name], origins[name] = value, layer.name
    try:
        return Resolved(DaemonOptions.model_validate(values), origins)
    except ValidationError as exc:
        problems = [_describe(one, origins) for one in exc.errors(include_url=False)]
        raise BadConfiguration("; ".join(problems)) from None


def _describe(problem: ErrorDetails, origins: Mapping[str, str]) -> str:
    if not problem["loc"]:  # of several options, which it names
        return problem["msg"].removeprefix("Value error, ")
    name = str(problem["loc"][0])
    return f"{_spell(name, origins[name])}: {problem['msg']}"


def _spell(name: str, origin: str) -> str:
    """An option as whoever has set it wrote it."""
    if origin == "flag":
        return f"--{hyphenated(name)}"
    return environment_name(name) if origin == "environment" else f"{origin}: {hyphenated(name)}"


def hyphenated(option: str) -> str:
    """As flags and files name it."""
    return option.replace("_", "-")


def environment_name(option: str) -> str:
    return ENVIRONMENT_PREFIX + option.upper()


def user_file() -> Path:
    """Of the user's own defaults, on this platform."""
    return Path(platformdirs.user_config_dir("dspy-bridge", appauthor=False)) / _FILE


def _files(folder: Path) -> list[Layer]:
    layers = [Layer(str(path), _read(path)) for path in (user_file(), folder / _FILE) if path.is_file()]
    project = folder / "pyproject.toml"
    if not (folder / _FILE).is_file() and project.is_file():
        table = _read(project).get("tool", {}).get("dspy-bridge")
        if isinstance(table, dict):
            layers.append(Layer(f"{project} [tool.dspy-bridge]", _underscored(table)))
    return layers


def _read(path: Path) -> dict[str, Any]:
    try:
        return _underscored(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise BadConfiguration(f"{path}: {exc}") from None


def _underscored(table: Mapping[str, Any]) -> dict[str, Any]:
    """Options may be written as flags are: ``max-workers``."""
    return {name.replace("-", "_") if name != "tool" else name: value for name, value in table.items()}


def _environment(environ: Mapping[str, str]) -> Layer:
    known = {environment_name(name): name for name in DaemonOptions.model_fields}
    return Layer("environment", {known[name]: value for name, value in environ.items() if name in known})
