"""Which layer an option comes from, and what is said of one that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from dspy_bridge.daemon import configuration
from dspy_bridge.daemon.configuration import BadConfiguration, Configuration, resolve
from dspy_bridge.daemon.options import DaemonOptions, refuse_daemon_options
from dspy_bridge.protocol.arguments import SettingsArgs, validate
from dspy_bridge.protocol.daemon_commands import StartSessionArgs
from dspy_bridge.protocol.errors import BridgeError


@pytest.fixture
def user_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = folder / "user" / "bridge.toml"
    path.parent.mkdir()
    monkeypatch.setattr(configuration, "user_file", lambda: path)
    return path


@pytest.fixture
def project(folder: Path) -> Path:
    made = folder / "project"
    made.mkdir()
    return made


def test_each_layer_wins_over_the_one_before(user_file: Path, project: Path) -> None:
    user_file.write_text("spares = 1\nmax_sessions = 11\nmax-workers = 21\nlog_level = 'info'\n")
    (project / "bridge.toml").write_text("max_sessions = 12\nmax_workers = 22\nlog_level = 'debug'\n")
    environ = {"DSPY_BRIDGE_MAX_WORKERS": "23", "DSPY_BRIDGE_LOG_LEVEL": "error", "DSPY_BRIDGE_SOCKET": "/s"}
    found = resolve({"log_level": "warning"}, environ, project)
    options = found.options
    assert (options.spares, options.max_sessions, options.max_workers, options.log_level) == (1, 12, 23, "warning")
    assert found.origin("spares") == str(user_file)
    assert found.origin("max_sessions") == str(project / "bridge.toml")
    assert found.origin("max_workers") == "environment"
    assert found.origin("log_level") == "flag"
    assert found.origin("framing") == "default"
    assert resolve({}, {}, project.parent).options.max_sessions == 11


def test_a_projects_table_counts_where_it_has_no_file_of_its_own(user_file: Path, project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.other]\nspares = 9\n[tool.dspy-bridge]\nmax-sessions = 5\n")
    found = resolve({}, {}, project)
    assert (found.options.max_sessions, found.options.spares) == (5, DaemonOptions().spares)
    assert found.origin("max_sessions").endswith("pyproject.toml [tool.dspy-bridge]")
    (project / "bridge.toml").write_text("spares = 3\n")
    found = resolve({}, {}, project)
    assert (found.options.max_sessions, found.options.spares) == (DaemonOptions().max_sessions, 3)


@pytest.mark.parametrize(
    ("text", "environ", "flags", "says"),
    [
        ("spars = 1", {}, {}, "there is no option 'spars'; did you mean 'spares'?"),
        ("queue_totl = 1", {}, {}, "there is no option 'queue-totl'; did you mean 'queue-total'?"),
        ("queue_total = 'many'", {}, {}, "bridge.toml: queue-total: Input should be a valid integer"),
        ("spares = 'many'", {}, {}, "bridge.toml: spares: Input should be a valid integer"),
        ("spares = [", {}, {}, "bridge.toml: "),
        ("", {"DSPY_BRIDGE_SPARES": "-1"}, {}, "DSPY_BRIDGE_SPARES: Input should be greater than or equal to 0"),
        ("", {}, {"max_frame": 1}, "--max-frame: Input should be greater than or equal to 1024"),
    ],
)
def test_what_cannot_be_is_named_with_its_place(
    user_file: Path, project: Path, text: str, environ: dict[str, str], flags: dict[str, int], says: str
) -> None:
    (project / "bridge.toml").write_text(text)
    with pytest.raises(BadConfiguration) as bad:
        resolve(flags, environ, project)
    assert says in str(bad.value)


def test_truth_values_come_from_the_environment_in_words(user_file: Path, project: Path) -> None:
    for word, meant in (("1", True), ("true", True), ("yes", True), ("0", False), ("false", False), ("no", False)):
        assert resolve({}, {"DSPY_BRIDGE_EXPLICIT_SESSIONS": word}, project).options.explicit_sessions is meant


# -- again -----------------------------------------------------------------------------------------


def test_a_revision_takes_what_can_be_reloaded_and_keeps_the_rest(user_file: Path, project: Path) -> None:
    (project / "bridge.toml").write_text("spares = 1\nmax-frame = 5000\nqueue-total = 9\nmax-sessions = 7\n")
    environ = {"DSPY_BRIDGE_QUEUE_TOTAL": "99"}
    configuration = Configuration({"max_sessions": 3}, environ, project)
    environ["DSPY_BRIDGE_SPARES"] = "5"  # what the environment became later is of no interest
    (project / "bridge.toml").write_text("spares = 4\nmax-frame = 6000\nqueue-total = 10\nmax-sessions = 8\n")
    revision = configuration.revise()
    assert (list(revision.changed), list(revision.waiting)) == (["spares"], ["max_frame"])
    assert configuration.options.spares == 1  # nothing has changed yet
    configuration.adopt(revision)
    options = configuration.options
    assert (options.spares, options.max_frame, options.queue_total, options.max_sessions) == (4, 5000, 99, 3)
    assert list(configuration.waiting) == ["max_frame"]
    (project / "bridge.toml").write_text("max-frame = 5000\n")
    revision = configuration.revise()
    assert (list(revision.changed), list(revision.waiting)) == (["spares"], [])
    configuration.adopt(revision)
    assert configuration.options.spares == DaemonOptions().spares
    assert configuration.resolved.origin("spares") == "default"


def test_an_option_that_goes_back_to_its_default_keeps_saying_where_its_value_is_from(
    user_file: Path, project: Path
) -> None:
    (project / "bridge.toml").write_text("max-frame = 5000\n")
    configuration = Configuration({}, {}, project)
    (project / "bridge.toml").write_text("")
    configuration.adopt(configuration.revise())
    assert configuration.options.max_frame == 5000
    assert configuration.resolved.origin("max_frame").endswith("bridge.toml")


def test_every_option_says_what_a_change_of_it_takes() -> None:
    fixed = {name for name in DaemonOptions.model_fields if DaemonOptions.change(name) == "restart"}
    of_the_wire = {"framing", "launcher", "max_frame", "state_dir", "state_sync"}
    of_what_watches = {"trace_file", "otel", "metrics_port", "record"}
    assert fixed == of_the_wire | of_what_watches | {"harden", "uid_range"}


def test_no_setting_of_a_session_is_taken_for_an_option_of_the_daemon() -> None:
    refuse_daemon_options(SettingsArgs.model_fields)
    with pytest.raises(BridgeError) as refused:
        refuse_daemon_options(["num_threads", "spares", "state_dir"])
    assert [one["path"] for one in refused.value.details["errors"]] == ["args.spares", "args.state_dir"]


@pytest.mark.parametrize(
    ("args", "path", "hint"),
    [
        ({"thread": 1}, "args.thread", "'threads'"),
        ({"settings": {"thread": 1}}, "args.settings.thread", "'num_threads'"),
        ({"settings": {"adapter": {"name": "chat", "nam": 1}}}, "args.settings.adapter.nam", "'name'"),
        ({"zzz": 1}, "args.zzz", None),
    ],
)
def test_the_nearest_name_is_one_of_its_place(args: dict[str, object], path: str, hint: str | None) -> None:
    with pytest.raises(BridgeError) as refused:
        validate(StartSessionArgs, args)
    (error,) = refused.value.details["errors"]
    assert error["path"] == path
    assert ("did you mean" in error["reason"]) == (hint is not None)
    assert hint is None or hint in error["reason"]
