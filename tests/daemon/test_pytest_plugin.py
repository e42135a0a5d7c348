"""The pytest plugin, as a project's own tests use it: in runs of their own, alone and under pytest-xdist."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "testing"
# Plugins nobody needs there: to import them takes more than to import pytest and ours, in each of its processes.
_WITHOUT = ("-p", "no:hypothesispytest", "-p", "no:anyio")


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *_WITHOUT, "-o", "addopts=", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def write(folder: Path, text: str, ini: str = "") -> None:
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    (folder / "test_it.py").write_text(textwrap.dedent(text))


def count(output: str, what: str) -> int:
    found = re.search(rf"(\d+) {what}", output)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "two workers"])
def test_every_test_has_a_session_of_its_own(folder: Path, workers: tuple[str, ...]) -> None:
    write(
        folder,
        """
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_own(bridge_session, bridge, number):
            assert f"test_own[{number}]" in bridge_session.id
            assert not bridge_session.get("number")["found"]
            bridge_session.set("number", number)
            bridge_session.configure_lm({"model": "scripted", "answers": [{"answer": str(number)}]})
            program = bridge_session.program("question -> answer", id="the same in all")
            assert program(question="?").answer == str(number)
            assert bridge_session.id in bridge.begun
        """,
    )
    assert count(run(folder, *workers), "passed") == 20


def test_a_marker_and_the_ini_file_say_what_a_session_is_like(folder: Path) -> None:
    write(
        folder,
        """
        import pytest
        from dspy_bridge import errors

        def ask(session):
            return session.program("question -> answer")(question="?").answer

        def test_ini(bridge_session):
            assert ask(bridge_session) == "from the ini file"

        @pytest.mark.bridge(lm={"model": "scripted", "answers": [{"answer": "from the marker"}]}, env={"WHERE": "here"})
        class TestMarked:
            def test_class(self, bridge_session):
                assert ask(bridge_session) == "from the marker"

            @pytest.mark.bridge(lm=None, settings={"adapter": "json"})
            def test_nearest_wins(self, bridge_session):
                assert bridge_session.configure()["settings"]["adapter"] == "json"
                with pytest.raises(errors.LMNotConfigured):
                    ask(bridge_session)

        def test_flags(bridge):
            with pytest.raises(errors.SessionNotFound):
                bridge.join("nobody's").programs()
        """,
        ini='bridge_lm = {"model": "scripted", "answers": [{"answer": "from the ini file"}]}\n'
        "bridge_args = --explicit-sessions",
    )
    assert count(run(folder), "passed") == 4


def test_a_failing_test_shows_what_its_session_printed_and_asked(folder: Path) -> None:
    write(
        folder,
        """
        def test_fails(bridge_session):
            options = {"module": "tests.support.custom_program:Talkative"}
            bridge_session.program("question -> answer", program_type="custom", options=options, id="p")
            done = bridge_session["p"](question="What was asked?")
            assert done.answer == "something else"

        def test_passes(bridge_session):
            bridge_session.program("question -> answer")(question="Unshown?")
        """,
        ini="bridge_args = --allow-import tests.support",
    )
    output = run(folder, code=1)
    assert "Captured output of the bridge session" in output
    assert "said aloud" in output
    assert "Model calls of the bridge session" in output
    assert "What was asked?" in output
    assert "Unshown?" not in output


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "two workers"])
def test_a_session_that_is_never_ended_fails_the_run(folder: Path, workers: tuple[str, ...]) -> None:
    text = """
        def test_leaks(bridge):
            bridge.session("left behind")
        """
    write(folder, text)
    assert "1 session(s) were never ended: left behind" in run(folder, *workers, code=1)
    write(folder, text, ini="bridge_leak_check = false")
    run(folder, *workers)


def test_a_run_that_takes_warnings_for_errors_has_none_of_the_plugin(folder: Path) -> None:
    write(
        folder,
        """
        import gc, pytest

        @pytest.mark.parametrize("number", range(4))
        def test_own(bridge_session, number):
            gc.collect()
        """,
    )
    assert count(run(folder, "-n", "2", "-W", "error"), "passed") == 4


def test_a_test_may_end_its_session_itself_or_kill_its_interpreter(folder: Path) -> None:
    write(
        folder,
        """
        import os

        def test_ends(bridge_session):
            bridge_session.end()

        def test_kills(bridge_session):
            bridge_session.set("x", 1)
            bridge_session.program("question -> answer", id="p")
            os.kill(bridge_session.info()["workers"][0]["pid"], 9)
            assert bridge_session["p"](question="?").answer
            assert bridge_session.get("x")["value"] == 1
        """,
    )
    assert count(run(folder), "passed") == 2


def test_the_same_tests_interfere_in_one_process_and_not_in_sessions(folder: Path) -> None:
    names = re.findall(r"^def (test_\w+)", (EXAMPLES / "test_in_one_process.py").read_text(), re.M)
    together = run(EXAMPLES, "-c", "/dev/null", "test_in_one_process.py", code=1)
    assert (count(together, "passed"), count(together, "failed")) == (1, 2)
    for name in names:
        run(EXAMPLES, "-c", "/dev/null", f"test_in_one_process.py::{name}")
    for workers in ((), ("-n", "2")):
        assert count(run(EXAMPLES, "-c", "/dev/null", "test_isolated.py", *workers), "passed") == len(names)


def test_two_hundred_sessions_in_one_run(folder: Path) -> None:
    write(
        folder,
        """
        import pytest

        @pytest.mark.parametrize("number", range(200))
        def test_own(bridge_session, number):
            program = bridge_session.program("question -> answer")
            assert program(question=str(number)).answer
        """,
    )
    began = time.monotonic()
    output = run(folder, "-n", "2")
    assert count(output, "passed") == 200
    print(f"200 sessions: {time.monotonic() - began:.2f} s in all; {output.splitlines()[-1].strip('= ')}")
