"""The commands of a session as methods, whichever way their results come: at once, or awaited.

Both clients' sessions are made of this. A method puts its arguments into the wire's form (functions become
tools, metrics and models of this host) and leaves the rest to ``call``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dspy_bridge.client.engine import Engine
from dspy_bridge.client.hosted import describe_tool, read_lm

R = TypeVar("R")

LM = str | Mapping[str, Any] | Callable[..., Any]
"""A model's name for DSPy, its whole configuration, or a function of this host: ``f(request) -> text``."""
Tool = Callable[..., Any] | Mapping[str, Any]
Metric = str | Mapping[str, Any] | Callable[..., Any]
"""A built-in one's name, its description, or a function of this host: ``f(example, prediction) -> score``."""
Rows = Sequence[Mapping[str, Any]] | Mapping[str, Any]


@dataclass(frozen=True)
class Execution:
    """What came of one execution; outputs can be read as attributes too: ``done.answer``."""

    program_id: str
    outputs: dict[str, Any]
    usage: dict[str, Any] = field(default_factory=dict)
    execution_time_ms: float = 0.0

    @classmethod
    def read(cls, result: Mapping[str, Any]) -> Execution:
        """From the result of ``execute_program``; what a later daemon adds to it is left out."""
        return cls(result["program_id"], result["outputs"], result["usage"], result["execution_time_ms"])

    def __getattr__(self, name: str) -> Any:
        if "outputs" not in self.__dict__:  # a copy in the making
            raise AttributeError(name)
        try:
            return self.outputs[name]
        except KeyError:
            raise AttributeError(f"there is no output {name!r}; there are {', '.join(self.outputs)}") from None

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]


def read_result(command: str, result: Any) -> Any:
    """What a command came to as the client gives it: an execution as an object, everything else as it is."""
    return Execution.read(result) if command == "execute_program" else result


@dataclass(frozen=True)
class Event:
    """One event of a request, before its result: ``token``, ``status``, ``progress``, ``item`` or ``log``."""

    event: str
    data: dict[str, Any]

    @property
    def text(self) -> str:
        """Of a ``token`` or ``log``."""
        return str(self.data.get("text", ""))


class SessionCommands(Generic[R]):
    """See the module. ``R``: what ``call`` gives, a result or an awaitable one."""

    def __init__(self, engine: Engine, session_id: str) -> None:
        self.id = session_id
        self.output = ""
        """What the session's programs have printed during requests of this client (the last 64 KiB)."""
        self._engine = engine

    def call(self, command: str, args: Mapping[str, Any] | None = None, *, timeout: float | None = None) -> R:
        """The result of any command of the wire. ``timeout``: seconds, kept by the daemon."""
        raise NotImplementedError

    def _heard(self, event: str, data: Mapping[str, Any]) -> None:
        if event == "log":
            self.output = (self.output + data.get("text", ""))[-65_536:]

    def _begun(self, lm: Callable[..., Any] | None) -> None:
        """The daemon has begun it: serve the function that is its model, and none of an earlier session."""
        self._engine.forget_session(self.id)
        if lm is not None:
            self.as_lm(lm)

    # -- settings ------------------------------------------------------------------------------

    def configure_lm(self, model: LM, **options: Any) -> R:
        """Set the session's model, or with ``name`` one programs can refer to by that name."""
        return self.call("configure_lm", {**self.as_lm(model), **options})

    def configure(self, **settings: Any) -> R:
        """Change DSPy settings of the session: ``adapter``, ``cache``, ``seed`` and so on."""
        return self.call("configure", settings)

    def configure_embedder(self, model: str | Callable[..., Any], **options: Any) -> R:
        """Set an embedder: a provider's model, ``"scripted"``, or a function of this host, from texts to vectors."""
        if callable(model):
            embed = model
            name = f"embed_{options.get('name', 'default')}"
            model = f"host/{self._engine.host('tool', self.id, name, embed, lambda texts: embed(texts))}"
        return self.call("configure_embedder", {"model": model, **options})

    def define_types(self, **types: Any) -> R:
        """Name types for signatures to use."""
        return self.call("define_types", {"types": types})

    # -- state ---------------------------------------------------------------------------------

    def get(self, key: str) -> R:
        """A session variable: ``{"key", "value", "found"}``."""
        return self.call("get_state", {"key": key})

    def set(self, key: str, value: Any) -> R:
        """Set a session variable."""
        return self.call("set_state", {"key": key, "value": value})

    def update(self, key: str, op: str, **more: Any) -> R:
        """Change a session variable atomically: ``incr``, ``append``, ``compare_and_set``, ``delete``."""
        return self.call("update_state", {"key": key, "op": op, **more})

    # -- programs ------------------------------------------------------------------------------

    def batch(self, program_id: str, inputs: Rows, **options: Any) -> R:
        """Run a program on many inputs; see ``execute_batch``."""
        return self.call("execute_batch", {"program_id": program_id, "inputs": inputs, **self._translated(options)})

    def evaluate(self, program_id: str, examples: Rows, metric: Metric, **options: Any) -> R:
        """Score a program on examples; see ``evaluate_program``."""
        given = self._translated({"metric": metric, **options})
        return self.call("evaluate_program", {"program_id": program_id, "examples": examples, **given})

    def compile(self, program_id: str, optimizer: str, trainset: Rows, **options: Any) -> R:
        """Optimize a program; see ``compile_program``."""
        given = self._translated(options)
        args = {"program_id": program_id, "optimizer": optimizer, "trainset": trainset, **given}
        return self.call("compile_program", args)

    def programs(self) -> R:
        """Every program of the session."""
        return self.call("list_programs")

    def history(self, n: int = 10) -> R:
        """The session's latest model calls."""
        return self.call("inspect_history", {"n": n})

    def usage(self) -> R:
        """Tokens used, by program and model."""
        return self.call("get_usage")

    def info(self) -> R:
        """The session: its state, its interpreters, how often it was recycled."""
        return self.call("session_info")

    def reset(self) -> R:
        """The session as new, settings included."""
        return self.call("reset_state")

    # -- into the wire's form ------------------------------------------------------------------

    def as_lm(self, given: LM) -> dict[str, Any]:
        """A model's configuration; a function is from now on served to this session."""
        config, function = read_lm(given)
        if function is not None:
            name = config["model"].partition("/")[2]
            config = {"model": f"host/{self._engine.host('lm', self.id, name, function)}"}
        return dict(config)

    def as_tools(self, tools: Sequence[Tool]) -> list[dict[str, Any]]:
        """The descriptions of tools; functions are from now on served to this session.

        Raises ``ValueError`` for one whose name another function has in this session: a model calls it by that.
        """
        described = []
        for tool in tools:
            if callable(tool):
                hosted = describe_tool(tool)
                self._engine.host("tool", self.id, hosted.name, tool, hosted.work, exact=True)
                described.append(hosted.spec)
            else:
                spec = dict(tool)
                work = spec.pop("call", None)
                if work is not None:
                    self._engine.host("tool", self.id, spec["name"], work, exact=True)
                described.append(spec)
        return described

    def _translated(self, options: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(options)
        for name in ("lm", "prompt_lm"):
            if given.get(name) is not None:
                given[name] = self.as_lm(given[name])
        metric = given.get("metric")
        if callable(metric):
            # Under a name of its own kind: tools, which cannot be renamed, go by theirs alone.
            name = f"metric_{getattr(metric, '__name__', 'of_python').strip('<>')}"
            given["metric"] = {"host": self._engine.host("tool", self.id, name, metric)}
        return given

    def _program_args(self, signature: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        given = self._translated(options)
        if signature is not None:
            given["signature"] = signature
        if "tools" in given:
            given["tools"] = self.as_tools(given["tools"])
        return given

    def _execution_args(self, program_id: str, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        return {"program_id": program_id, "inputs": dict(inputs), **self._translated(options)}
