"""Writes ``docs/dspy.md``: every public name of DSPy and how a host reaches it. A test keeps it whole.

``python -m tests.docs.dspy_page``
"""

from __future__ import annotations

import types
from pathlib import Path

import dspy

from dspy_bridge.worker.metrics import BUILT_IN
from dspy_bridge.worker.optimizers import OPTIMIZERS
from dspy_bridge.worker.program_types import PROGRAM_TYPES, options_schema

PAGE = Path(__file__).parent.parent.parent / "docs" / "dspy.md"

_CODES = "error codes: `lm_error` with `details.status`, `details.code` and `retryable` as DSPy judges it"
_PYTHON = "a Python class to build on: from a `custom` program of an allowed package"
_TUNING = "not offered: tune at the provider, and name the tuned model with `configure_lm`"
_VALUE = 'a field type; its values are tagged JSON, `{"$type": ...}`'

ROWS: dict[str, str] = {
    **dict.fromkeys(["Predict"], '`program_type: "predict"`'),
    "ChainOfThought": '`program_type: "chain_of_thought"`',
    "ReAct": '`program_type: "react"`, with `tools` in the host',
    "ReActV2": '`program_type: "react_v2"`, likewise',
    "MultiChainComparison": '`program_type: "multi_chain_comparison"`; it makes the chains itself',
    "BestOfN": '`program_type: "best_of_n"`, with a `reward` as a metric is named',
    "Refine": '`program_type: "refine"`, likewise',
    "Ensemble": '`program_type: "ensemble"`',
    "majority": '`program_type: "ensemble"` with `vote`',
    "ProgramOfThought": '`program_type: "program_of_thought"`, with Deno or `--allow-local-interpreter`',
    "CodeAct": '`program_type: "code_act"`, likewise; without tools, whose source it would ship',
    "RLM": '`program_type: "rlm"`, likewise',
    "Parallel": "`execute_batch`",
    "Module": '`program_type: "custom"`, from packages of `--allow-import`; `pipeline` for compositions as data',
    "BaseModule": _PYTHON,
    "Flex": '`program_type: "flex"` (experimental in DSPy), likewise',
    **dict.fromkeys(
        ["Retrieve", "Embeddings", "EmbeddingsWithScores"], '`program_type: "retrieve"`, over texts or objects'
    ),
    "KNN": '`program_type: "retrieve"` over objects; `knn_few_shot` shows the nearest to a program',
    "Embedder": "`configure_embedder`: a provider's model, one in the host, or `scripted`",
    "ColBERTv2": "a tool or a step in the host, or a `custom` program: it is the client of a server",
    **dict.fromkeys(["Signature", "make_signature", "InputField", "OutputField"], "`signature` of `create_program`"),
    **dict.fromkeys(["SignatureMeta", "ensure_signature", "infer_prefix"], "inside `signature`: the bridge calls it"),
    **dict.fromkeys(["OldField", "OldInputField", "OldOutputField"], "deprecated in DSPy; not offered"),
    **dict.fromkeys(["Image", "Audio", "File", "History", "Code", "Reasoning", "ToolCalls"], _VALUE),
    "ToolCallResults": _VALUE,
    "Type": _PYTHON,
    "Tool": "`tools` of `create_program`, in the host; `mcp`, of MCP servers",
    **dict.fromkeys(
        ["Example", "Prediction", "Completions"], "rows of `trainset` and `examples`; `outputs` of results"
    ),
    "LM": "`configure_lm`, `lm` of a program, `lm` of a request: every argument that is JSON",
    "BaseLM": '`model: "host"`: a model of any kind, in the host',
    **dict.fromkeys(["Provider", "TrainingJob"], _TUNING),
    **dict.fromkeys(["ChatAdapter", "JSONAdapter", "XMLAdapter"], "`adapter` of session, program or request"),
    "Adapter": f'{_PYTHON}; `adapter: "baml"` is DSPy\'s BAML adapter',
    "TwoStepAdapter": '`adapter: "two_step"`, with `extraction_lm`, a named model',
    "Evaluate": "`evaluate_program`",
    "LabeledFewShot": '`optimizer: "labeled_few_shot"`',
    "BootstrapFewShot": '`optimizer: "bootstrap_few_shot"`',
    **dict.fromkeys(["BootstrapFewShotWithRandomSearch", "BootstrapRS"], '`optimizer: "random_search"`'),
    "COPRO": '`optimizer: "copro"`',
    "MIPROv2": '`optimizer: "mipro_v2"`, where optuna and numpy are installed',
    "GEPA": '`optimizer: "gepa"`',
    "SIMBA": '`optimizer: "simba"`, where numpy is installed',
    "InferRules": '`optimizer: "infer_rules"`',
    "BootstrapFewShotWithOptuna": '`optimizer: "bootstrap_few_shot_optuna"`, where optuna is installed',
    "BootstrapFinetune": _TUNING,
    "BetterTogether": '`optimizer: "better_together"`, of other optimizers by name',
    "KNNFewShot": '`optimizer: "knn_few_shot"`, or `program_type: "knn_few_shot"`',
    "AvatarOptimizer": "not offered: it compiles only DSPy's Avatar agent, which takes Python tools",
    "bootstrap_trace_data": "inside optimizers",
    "streamify": "`stream: true` (or field names) of `execute_program`: `token` and `status` events",
    **dict.fromkeys(
        ["asyncify", "syncify"], "not needed: requests of several sessions or `workers` overlap by themselves"
    ),
    **dict.fromkeys(["configure", "settings"], "`configure`, `settings` of `start_session`"),
    "context": "`config` and `lm` of a request: they hold for it alone",
    "load_settings": "`import_session`",
    "configure_cache": "`cache` of `configure`: per session, in memory; `shared` on disk where the operator offers it",
    "track_usage": "`usage` of every result; `get_usage`",
    "inspect_history": "`inspect_history`, of the session alone",
    "load": "`load_program`: JSON states only, never pickles",
    **dict.fromkeys(
        [
            "configure_dspy_loggers",
            "disable_logging",
            "enable_logging",
            "disable_litellm_logging",
            "enable_litellm_logging",
        ],
        "not needed: what is logged comes as `log` events or stays in the daemon's log",
    ),
    **dict.fromkeys(["PythonInterpreter", "LocalInterpreter", "resolve_interpreter_factory"], "chosen by the operator"),
    **dict.fromkeys(["CodeInterpreter", "FinalOutput", "SandboxSerializable"], "inside programs that write code"),
    **dict.fromkeys(["CodeInterpreterError", "CodeExecutionError"], "error code `execution_error`"),
    "AdapterParseError": "error code `output_parse_error`, with the raw answer and the expected fields",
    "LMNotConfiguredError": "error code `lm_not_configured`",
    "is_retryable_lm_error": "`retryable` of every error",
    "DSPyError": _CODES,
    "ContextWindowExceededError": _CODES,
}
ROWS |= {name: _CODES for name in dir(dspy) if name.startswith("LM") and name.endswith("Error") and name not in ROWS}


def public_names() -> list[str]:
    """Every public name of the installed DSPy that is no module."""
    return [
        name for name in dir(dspy) if not name.startswith("_") and not isinstance(getattr(dspy, name), types.ModuleType)
    ]


def page() -> str:
    lines = [
        "# DSPy over the wire",
        "",
        "*Made by `python -m tests.docs.dspy_page`; a test compares it with the installed DSPy.*",
        "",
        "Every public name of DSPy, and how a host reaches it, or why not.",
        "",
        "| name | reached by |",
        "|---|---|",
        *(f"| `{name}` | {ROWS.get(name, '**missing**')} |" for name in sorted(ROWS, key=str.casefold)),
        "",
        "## Program types",
        "",
        "`create_program` takes these; `options` are those of DSPy's constructor, or as listed.",
        "",
        "| program_type | options |",
        "|---|---|",
    ]
    for kind in PROGRAM_TYPES.values():
        schema = options_schema(kind)
        options = ", ".join(f"`{name}`" for name in schema.get("properties", {}))
        more = ", and options of the model" if schema.get("additionalProperties") else ""
        lines.append(f"| `{kind.name}` | {options or 'none'}{more} |")
    lines += [
        "",
        "## Optimizers",
        "",
        "| optimizer | DSPy's | needs |",
        "|---|---|---|",
        *(
            f"| `{row.name}` | `{row.attribute}` | {', '.join(row.needs) or 'nothing more'} |"
            for row in OPTIMIZERS.values()
        ),
        "",
        "Progress comes as `progress` events: `evaluations`, `metric_calls`, `lm_calls`, `score`, `best`, `elapsed_s`, and",
        "`estimated_rest_s` where the optimizer's settings let it be told. Whenever a candidate has been evaluated on the whole validation set and is better than all before, it is kept under `compiled_id`: a",
        "cancel, a timeout or a crash loses only what came after.",
        "",
        "## Metrics and rewards",
        "",
        f'Built in: {", ".join(f"`{name}`" for name in BUILT_IN)}, as a name or as `{{"name", "field"}}`. In the host:',
        '`{"host": "name"}` is asked as a `tool` call with `example` and `prediction`, and answers with a number, a truth value or',
        '`{"score", "feedback"}`. A judge: `{"program": "id", "field", "inputs": {"answer": "prediction.answer"}}`. Python of an allowed',
        'package: `{"python": "pkg.mod:function"}`.',
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
