"""The Python client, sync and async, against real daemons."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import dspy_bridge
from dspy_bridge import Bridge, Session, errors
from dspy_bridge.client import Client
from dspy_bridge.client.wire import Wire
from dspy_bridge.protocol.errors import ERRORS
from tests.support.host import serving

TRAIN = [{"question": f"q{n}", "answer": "right" if n else "wrong"} for n in range(2)]


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    with dspy_bridge.connect() as made:
        yield made


@pytest.fixture
def session(bridge: Bridge, request: pytest.FixtureRequest) -> Iterator[Session]:
    lm = {"model": "scripted", "answers": [{"answer": "right"}]}
    with bridge.session(request.node.name, lm=lm) as made:
        yield made


def written(**fields: Any) -> str:
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()), "[[ ## completed ## ]]"])


def until(holds: Callable[[], bool]) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.01)


def add(a: int, b: int = 1) -> int:
    """Adds two numbers."""
    return a + b


def agent_model(request: dict[str, Any]) -> str:
    """Calls the tool ``add`` once, then answers with what it gave."""
    prompt = request["messages"][-1]["content"]
    if "observation_1" in prompt or "next_tool_name" not in prompt:
        return written(reasoning="seen", answer="done")
    if "observation_0" in prompt:
        return written(next_thought="enough", next_tool_name="finish", next_tool_args="{}")
    return written(next_thought="add", next_tool_name="add", next_tool_args='{"a": 2, "b": 3}')


# -- sessions and programs -------------------------------------------------------------------------


def test_a_program_is_called_like_a_function(session: Session) -> None:
    qa = session.program("question -> answer")
    done = qa(question="Why?")
    assert (done.answer, done["answer"], done.outputs) == ("right", "right", {"answer": "right"})
    assert done.program_id == qa.id
    with pytest.raises(AttributeError, match="there is no output 'answers'"):
        _ = done.answers


def test_a_session_ends_with_its_block_also_after_an_error(bridge: Bridge) -> None:
    with contextlib.suppress(ZeroDivisionError), bridge.session("short") as session:
        session.set("x", 1)
        raise ZeroDivisionError
    assert "short" not in [one["session_id"] for one in bridge.sessions()]
    with (
        pytest.raises(errors.LMNotConfigured),
        bridge.session("bad", lm={"model": "openai/m", "api_key_env": "KEY"}),
    ):
        pass
    assert "bad" not in [one["session_id"] for one in bridge.sessions()]


def test_a_session_can_be_joined_and_is_not_ended_by_that(bridge: Bridge, session: Session) -> None:
    session.set("colour", "blue")
    with bridge.join(session.id) as joined:
        assert joined.get("colour")["value"] == "blue"
    assert session.get("colour")["found"]


def test_everything_else_of_a_session(session: Session) -> None:
    qa = session.program("question -> answer", id="qa", demos=[{"question": "a", "answer": "b"}])
    assert qa.evaluate(TRAIN, "exact_match")["score"] == 50.0
    assert qa.batch([{"question": "1"}, {"question": "2"}])["succeeded"] == 2
    compiled = qa.compile("labeled_few_shot", TRAIN, compiled_id="few")
    assert compiled(question="q").answer == "right"
    state = compiled.save()
    qa.load(state)
    assert "wrong" in str(qa.save())
    assert {one["id"] for one in session.programs()["programs"]} == {"qa", "few"}
    assert session.configure(adapter="json")["settings"]["adapter"] == "json"
    assert session.usage()["programs"]["few"]["executions"] == 1
    assert len(session.history(2)["calls"]) == 2
    assert session.update("n", "incr")["value"] == 1
    compiled.delete()
    with pytest.raises(errors.ProgramNotFound):
        session["few"](question="q")
    assert session.reset()["cleared_programs"] == 1


# -- functions lent to programs --------------------------------------------------------------------


def test_functions_are_tools_and_models_and_metrics(session: Session) -> None:
    session.configure_lm(agent_model)
    agent = session.program("question -> answer", program_type="react", tools=[add])
    done = agent(question="2 + 3?")
    assert str(done.trajectory["observation_0"]) == "5"
    (tool,) = session.as_tools([add])
    assert (tool["name"], tool["description"]) == ("add", "Adds two numbers.")
    assert tool["args"]["required"] == ["a"]

    def lenient(example: dict[str, Any], prediction: dict[str, Any]) -> dict[str, Any]:
        return {"score": prediction["answer"] == "right", "feedback": example["answer"]}

    qa = session.program("question -> answer", id="qa", lm={"model": "scripted", "answers": [{"answer": "right"}]})
    found = qa.evaluate(TRAIN, lenient)
    assert found["score"] == 100.0
    assert found["results"][0]["feedback"] == "wrong"


def test_what_a_tool_raises_is_observed_and_a_lambda_is_no_tool(session: Session) -> None:
    def add(a: int, b: int) -> int:
        raise RuntimeError("out of numbers")

    session.configure_lm(agent_model)
    done = session.program("question -> answer", program_type="react", tools=[add])(question="2 + 3?")
    assert "out of numbers" in done.trajectory["observation_0"]
    with pytest.raises(TypeError, match="needs a name"):
        session.program("a -> b", program_type="react", tools=[lambda a: a])


@pytest.mark.parametrize("given", [SystemExit("leaving"), asyncio.CancelledError("leaving"), "\ud800", 2**70])
def test_a_tool_that_cannot_answer_says_why(session: Session, given: Any) -> None:
    def add(a: int, b: int) -> Any:
        if isinstance(given, BaseException):
            raise given
        return given

    session.configure_lm(agent_model)
    done = session.program("question -> answer", program_type="react", tools=[add])(question="2 + 3?")
    assert done.trajectory["observation_0"].startswith("Error: ")
    assert "the host's tool 'add' failed: " in done.trajectory["observation_0"]


def test_sessions_do_not_meet_each_others_functions_of_one_name(bridge: Bridge) -> None:
    def make(word: str) -> Any:
        def mine(request: dict[str, Any]) -> str:
            return written(answer=word)

        return mine

    with bridge.session(lm=make("one")) as one, bridge.session(lm=make("two")) as two:
        asking = [session.program("question -> answer") for session in (one, two)]
        assert [ask(question="?").answer for ask in asking] == ["one", "two"]


def test_functions_of_one_name_are_each_themselves(session: Session) -> None:
    def make(word: str) -> Any:
        return lambda request: written(answer=word)

    one, two = make("one"), make("two")
    asking = [session.program("question -> answer", lm=model) for model in (one, two, one)]
    assert [ask(question="?").answer for ask in asking] == ["one", "two", "one"]
    assert session.as_lm(one) == session.as_lm(one) != session.as_lm(two)


def test_an_evaluation_keeps_its_metric_while_another_one_waits(session: Session) -> None:
    qa = session.program("question -> answer")
    scores: list[float] = []

    def bad() -> Any:
        def metric(example: dict[str, Any], prediction: dict[str, Any]) -> float:
            return 0.0

        return metric

    waiting = threading.Thread(target=lambda: scores.append(qa.evaluate(TRAIN, bad())["score"]))

    def metric(example: dict[str, Any], prediction: dict[str, Any]) -> float:
        if waiting.ident is None:
            waiting.start()
            until(lambda: session.info()["queued"] == 1)
        return 1.0

    assert qa.evaluate(TRAIN, metric, max_concurrency=1)["score"] == 100.0
    waiting.join(30)
    assert scores == [0.0]


def test_two_tools_of_one_name_are_refused_and_the_first_one_stays(session: Session) -> None:
    first = add

    def other(a: int, b: int) -> int:
        return a * b

    session.configure_lm(agent_model)
    agent = session.program("question -> answer", program_type="react", tools=[first])
    other.__name__ = "add"
    for clashing in (other, {"name": "add", "call": other}):
        with pytest.raises(ValueError, match="another function is the tool 'add'"):
            session.program("question -> answer", program_type="react", tools=[clashing])
    assert session.as_tools([first])[0]["name"] == "add"
    assert str(agent(question="2 + 3?").trajectory["observation_0"]) == "5"

    def add_(example: dict[str, Any], prediction: dict[str, Any]) -> bool:
        return True

    add_.__name__ = "add"  # a metric and a tool do not get in each other's way
    qa = session.program("question -> answer", lm={"model": "scripted", "answers": [{"answer": "right"}]})
    assert qa.evaluate(TRAIN, add_)["score"] == 100.0


def test_a_session_of_an_earlier_ones_name_has_none_of_its_functions(bridge: Bridge) -> None:
    def add(a: int) -> int:
        return a

    earlier = bridge.session("twice")
    earlier.as_tools([add])
    bridge.call("end_session", session="twice")
    with bridge.session("twice") as later:
        assert later.as_tools([globals()["add"]])[0]["name"] == "add"


def test_an_embedder_may_be_a_function(session: Session) -> None:
    session.configure_embedder(lambda many: [[float("b" in text), 1.0] for text in many])
    look = session.program(program_type="retrieve", options={"corpus": ["aaa", "bbb"], "k": 1})
    assert look(query="b?").passages == ["bbb"]


# -- streams, timeouts, threads --------------------------------------------------------------------


def test_a_stream_gives_events_and_then_the_result(session: Session) -> None:
    with session.program("question -> answer").stream(question="?") as stream:
        texts = [one.text for one in stream if one.event == "token"]
        assert "".join(texts).strip() == "right"
        assert stream.result.answer == "right"


def test_leaving_a_stream_cancels_it(bridge: Bridge, session: Session) -> None:
    session.configure_lm("scripted", delay_ms=30_000)
    qa = session.program("question -> answer")
    with qa.stream(question="?") as stream:
        assert next(stream).event == "status"
    began = time.monotonic()
    session.configure_lm("scripted")
    assert qa(question="?").answer
    assert time.monotonic() - began < 10


def open_requests(bridge: Bridge) -> int:
    """Those the daemon has been sent and not answered, beside this one."""
    return int(bridge.call("get_stats")["requests"]["open"]) - 1


def test_a_stream_nobody_holds_any_more_is_cancelled(bridge: Bridge, session: Session) -> None:
    session.configure_lm("scripted", delay_ms=60_000)
    qa = session.program("question -> answer")
    for event in qa.stream(question="?"):
        assert event.event == "status"
        assert open_requests(bridge) == 1
        break
    until(lambda: open_requests(bridge) == 0)
    with pytest.raises(TypeError):
        session.stream("execute_program", {"program_id": object()})
    session.configure_lm("scripted")
    assert qa(question="?").answer


def test_a_stream_left_within_the_garbage_collector_holds_up_nobody(bridge: Bridge, session: Session) -> None:
    """Collections come whenever they like, also while this very thread is sending something."""
    session.configure_lm("scripted", delay_ms=60_000)
    stream = session.program("question -> answer").stream(question="?")
    assert next(stream).event == "status"
    held = [stream]
    del stream
    with bridge._engine._changing, bridge._engine._writing:
        held.clear()
    until(lambda: open_requests(bridge) == 0)


def test_what_is_cancelled_last_is_cancelled_before_the_connection_ends(folder: Path) -> None:
    with serving(folder / "s") as path, dspy_bridge.connect(path) as watching:
        with dspy_bridge.connect(path) as bridge:
            slow = bridge.session("slow", lm={"model": "scripted", "delay_ms": 60_000})
            with slow.program("question -> answer").stream(question="?") as stream:
                next(stream)
        until(lambda: open_requests(watching) == 0)
    began = time.monotonic()
    with dspy_bridge.connect() as bridge:
        slow = bridge.session("slow", lm={"model": "scripted", "delay_ms": 60_000})
        with slow.program("question -> answer").stream(question="?") as stream:
            next(stream)
    assert bridge.close() == 0
    assert time.monotonic() - began < 12


def test_what_a_listener_raises_is_raised_by_the_call_and_harms_nobody(bridge: Bridge, session: Session) -> None:
    slow = session.program("question -> answer", lm={"model": "scripted", "delay_ms": 60_000})
    asked = {"program_id": slow.id, "inputs": {"question": "?"}, "stream": True}

    def listen(event: str, data: dict[str, Any]) -> None:
        raise ZeroDivisionError("in the listener")

    with pytest.raises(ZeroDivisionError, match="in the listener"):
        bridge.call("execute_program", asked, session=session.id, on_event=listen)
    until(lambda: open_requests(bridge) == 0)
    assert session.program("question -> answer")(question="?").answer == "right"


def test_a_listener_that_would_wait_for_itself_is_told_so(bridge: Bridge, session: Session) -> None:
    qa = session.program("question -> answer")
    asked = {"program_id": qa.id, "inputs": {"question": "?"}, "stream": True}
    with pytest.raises(RuntimeError, match="on_event"):
        bridge.call("execute_program", asked, session=session.id, on_event=lambda *_: bridge.call("ping"))


def test_an_interrupt_of_whatever_kind_cancels_the_request(bridge: Bridge, session: Session) -> None:
    slow = session.program("question -> answer", lm={"model": "scripted", "delay_ms": 60_000})

    def leave(*_: object) -> None:
        raise SystemExit("told to leave")

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(SystemExit, match="told to leave"):
            slow(question="?")
    finally:
        signal.signal(signal.SIGUSR1, before)
    until(lambda: open_requests(bridge) == 0)


def test_a_timeout_is_kept_by_the_daemon(session: Session) -> None:
    qa = session.program("question -> answer", lm={"model": "scripted", "delay_ms": 30_000})
    with pytest.raises(errors.TimedOut):
        qa.run({"question": "?"}, timeout=0.2)


def test_many_threads_share_one_bridge(bridge: Bridge) -> None:
    answers: list[str] = []

    def work(number: int) -> None:
        with bridge.session(lm={"model": "scripted", "answers": [{"answer": str(number)}]}) as session:
            qa = session.program("question -> answer")
            answers.append(qa(question="?").answer)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answers) == sorted(map(str, range(16)))


def test_what_a_program_prints_is_with_its_session(folder: Path) -> None:
    flags = ["--allow-import", "tests.support.custom_program"]
    with dspy_bridge.connect(args=flags) as bridge, bridge.session(lm="scripted") as session:
        options = {"module": "tests.support.custom_program:Talkative"}
        talkative = session.program("question -> answer", program_type="custom", options=options)
        talkative(question="?")
        assert "said aloud" in session.output


def test_an_execution_can_be_copied_and_pickled(session: Session) -> None:
    done = session.program("question -> answer")(question="?")
    for twin in (copy.copy(done), copy.deepcopy(done), pickle.loads(pickle.dumps(done))):  # noqa: S301 - just made
        assert twin == done
        assert twin.answer == "right"


# -- errors ----------------------------------------------------------------------------------------


def test_there_is_one_exception_for_each_code() -> None:
    assert errors.BY_CODE.keys() == ERRORS.keys()
    assert type(errors.failure({"code": "of a later version", "message": "m"})) is errors.CommandFailed


def test_an_error_says_what_the_daemon_said(session: Session) -> None:
    with pytest.raises(errors.InvalidArgs) as failed:
        session.program("question -> answer", program_tipe="predict")
    assert failed.value.code == "invalid_args"
    assert failed.value.details["errors"][0]["path"] == "args.program_tipe"
    assert not failed.value.retryable


def test_a_daemon_that_dies_ends_every_call_and_says_so() -> None:
    with dspy_bridge.connect() as bridge:
        session = bridge.session(lm={"model": "scripted", "delay_ms": 60_000})
        qa = session.program("question -> answer")
        threading.Timer(0.2, os.kill, (bridge.ready["pid"], signal.SIGKILL)).start()
        with pytest.raises(errors.TransportError, match="has gone"):
            qa(question="?")
        with pytest.raises(errors.TransportError):
            bridge.call("ping")


def test_use_after_a_fork_is_told_and_harms_nobody(bridge: Bridge, session: Session) -> None:
    stream = session.program("question -> answer", id="p").stream(question="?")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for use in (lambda: bridge.call("ping"), lambda: next(stream)):
                with contextlib.suppress(errors.UsedAfterFork):
                    use()
                    os.write(write, b"not ")
            os.write(write, b"told")
        finally:
            bridge.close()
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    assert os.read(read, 10) == b"told"
    os.close(read)
    assert stream.result.answer == "right"
    assert session.program("question -> answer")(question="?").answer == "right"


def test_a_daemon_ends_with_its_bridge_also_while_a_fork_lives_on() -> None:
    read, write = os.pipe()
    with dspy_bridge.connect() as bridge:
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the parent lets go
            os._exit(0)
        os.close(read)
        try:
            assert bridge.close() == 0
        finally:
            os.close(write)
            os.waitpid(child, 0)


def test_a_request_sent_halfway_is_followed_by_no_other() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    wire = Wire(*os.pipe())
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            wire.send(bytes(1 << 22))
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(errors.TransportError, match="halfway"):
        wire.send(b"{}")
    wire.close()


def test_what_listens_and_is_no_daemon_is_told_apart(folder: Path) -> None:
    def answer(listening: socket.socket) -> None:
        with listening.accept()[0] as connection:
            connection.send(b"HTTP/1.1 400 Bad Request\r\n")

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s"))
        listening.listen()
        for connect in (dspy_bridge.connect, Client.connect):
            answering = threading.Thread(target=answer, args=(listening,))
            answering.start()
            descriptors = len(os.listdir("/proc/self/fd"))
            with pytest.raises(errors.TransportError, match="no frame of a daemon"):
                connect(str(folder / "s"))
            answering.join(30)
            assert len(os.listdir("/proc/self/fd")) <= descriptors


# -- joining a daemon ------------------------------------------------------------------------------


def test_several_clients_share_the_sessions_of_one_daemon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(folder / "s") as path:
        with dspy_bridge.connect(path) as one, one.session("shared", lm="scripted") as session:
            session.set("x", 1)
            monkeypatch.setenv("DSPY_BRIDGE_SOCKET", path)
            with dspy_bridge.connect() as two:
                assert two.join("shared").get("x")["value"] == 1
            assert session.get("x")["found"]
        with pytest.raises(ValueError, match="private"):
            dspy_bridge.connect(path, args=["--max-sessions", "3"])
    with pytest.raises(errors.TransportError, match="no daemon listens"):
        dspy_bridge.connect(folder / "nobody")


# -- asyncio ---------------------------------------------------------------------------------------


def test_the_same_awaited() -> None:
    async def model(request: dict[str, Any]) -> str:
        await asyncio.sleep(0)
        return agent_model(request)

    async def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    async def main() -> None:
        async with dspy_bridge.aconnect() as bridge:
            async with bridge.session(lm="scripted") as session:
                qa = await session.program("question -> answer")
                answers = await asyncio.gather(*(qa(question=str(n)) for n in range(5)))
                assert all(one.answer for one in answers)
                heard = [one async for one in qa.stream(question="?")]
                assert heard[-1].answer == "".join(one.text for one in heard[:-1] if one.event == "token").strip()
                await session.set("x", 1)
                assert (await session.get("x"))["value"] == 1
                with pytest.raises(errors.ProgramNotFound):
                    await session["none"](question="?")
            async with bridge.session(lm=model) as session:
                agent = await session.program("question -> answer", program_type="react", tools=[add])
                assert str((await agent(question="?")).trajectory["observation_0"]) == "5"
            assert await bridge.sessions() == []

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_request() -> None:
    async def main() -> None:
        async with dspy_bridge.aconnect() as bridge, bridge.session(lm={"model": "scripted"}) as session:
            slow = {"model": "scripted", "delay_ms": 60_000}
            qa = await session.program("question -> answer", lm=slow)
            task = asyncio.create_task(qa(question="?"))
            while not (await session.info())["in_flight"]:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async for _event in qa.stream(question="?"):
                break  # and so does leaving a stream
            began = time.monotonic()
            assert (await qa.run({"question": "?"}, lm="scripted")).answer
            assert time.monotonic() - began < 10

    asyncio.run(main())


def test_what_a_listener_raises_in_the_loop_cancels_the_request() -> None:
    async def main() -> None:
        async with dspy_bridge.aconnect() as bridge, bridge.session(lm="scripted") as session:
            qa = await session.program("question -> answer", lm={"model": "scripted", "delay_ms": 60_000})
            asked = {"program_id": qa.id, "inputs": {"question": "?"}, "stream": True}

            def listen(event: str, data: dict[str, Any]) -> None:
                raise ZeroDivisionError("in the listener")

            with pytest.raises(ZeroDivisionError, match="in the listener"):
                await bridge.call("execute_program", asked, session=session.id, on_event=listen)

            async def cancelled() -> None:
                while (await bridge.call("get_stats"))["requests"]["open"] > 1:
                    await asyncio.sleep(0.01)

            await asyncio.wait_for(cancelled(), 30)

    asyncio.run(main())


def test_a_bridge_that_is_not_waited_for_leaves_no_daemon() -> None:
    before = set(psutil.Process().children())

    def started() -> set[psutil.Process]:
        return set(psutil.Process().children()) - before

    async def main() -> None:
        entering = asyncio.create_task(dspy_bridge.aconnect().__aenter__())
        while not started():
            await asyncio.sleep(0.001)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering

    asyncio.run(main())
    until(lambda: not started())


def test_a_reply_to_a_loop_that_has_ended_is_dropped() -> None:
    left: list[dspy_bridge.AsyncBridge] = []

    async def main() -> None:
        bridge = dspy_bridge.aconnect()
        left.append(await bridge.__aenter__())
        session = await bridge.session(lm={"model": "scripted", "delay_ms": 300}).__aenter__()
        await session.program("question -> answer", id="qa")
        task = asyncio.create_task(session["qa"](question="?"))
        while not (await session.info())["in_flight"]:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(main())
    assert asyncio.run(left[0].call("ping"))
    assert asyncio.run(left[0].close()) == 0


def test_what_does_not_say_what_it_is_is_no_daemon_to_join(folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def refuse() -> None:
            other, _ = listening.accept()
            with other:
                other.recv(1 << 16)
                other.sendall(b'{"id":"hello","success":false,"error":{"code":"unknown_command"}}\n')

        answering = threading.Thread(target=refuse)
        answering.start()
        with pytest.raises(errors.TransportError, match="unknown_command"):
            Client.connect(str(path))
        answering.join(10)
