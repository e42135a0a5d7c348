"""A worker application without DSPy: what launchers, sessions and the ladder are tested with.

Requests are ``verb argument`` in ASCII. It keeps a counter that it reports as a snapshot part.
"""

import ast
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from session_supervisor.channel import Channel
from session_supervisor.frames import Kind, pack
from session_supervisor.hygiene import Interrupted, InterruptGate
from session_supervisor.limits import CpuExhausted, LimitKeeper, LimitReached, Limits
from session_supervisor.os_facts import private_memory
from session_supervisor.snapshot import decode_parts, encode_parts


def preload() -> None:
    """Nothing to warm."""


def broken_preload() -> None:
    raise ImportError("no module named 'surely_missing'")


def threaded_preload() -> None:
    threading.Thread(target=time.sleep, args=(3600,), name="left-behind", daemon=True).start()


def verify() -> list[str]:
    return []


class Toy:
    def __init__(self, channel: Channel, gate: InterruptGate) -> None:
        self.channel, self.gate = channel, gate
        self.parts: dict[str, bytes] = {}
        self.changed: dict[str, bytes] = {}
        self.birth = b""
        self.held = b""
        self.keeper = LimitKeeper(Limits())

    def run(self) -> None:
        self.channel.send(Kind.READY)
        while True:
            kind, number, body = self.channel.receive()
            if kind is Kind.STOP:
                return
            if kind is Kind.ASSIGN:
                self.birth = body
                if body == b"refuse me":
                    self.channel.send(Kind.REFUSED, 0, b"I was told to refuse")
                    return
                if body == b"die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if body.startswith(b"limits "):
                    self.keeper = LimitKeeper(Limits(**ast.literal_eval(body[7:].decode())))
                    self.keeper.apply()
                self.channel.send(Kind.ASSIGNED)
            elif kind is Kind.LOAD:
                for name, value in decode_parts(body).items():
                    self.parts.pop(name, None) if value is None else self.parts.__setitem__(name, value)
            elif kind is Kind.COLLECT:
                self.channel.send(Kind.HOLDS, private_memory(os.getpid()))
            elif kind is Kind.REQUEST:
                self.serve(number, body.decode())

    def serve(self, number: int, text: str) -> None:
        self.changed = {}
        spent = b""
        try:
            with self.gate, self.keeper.request():
                reply = self.do(number, *text.split(" ", 1))
        except Interrupted:
            reply = "interrupted"
        except (CpuExhausted, LimitReached, MemoryError, OSError) as exc:
            reply = type(exc).__name__
            spent = pack(Kind.SPENT, number)
        frames = pack(Kind.PARTS, number, encode_parts(self.changed)) if self.changed else b""
        frames += spent
        self.channel.send_many(frames + pack(Kind.REPLY, number, reply.encode()))

    def do(self, number: int, verb: str, argument: str = "") -> str:
        if verb == "pid":
            return str(os.getpid())
        if verb == "echo":
            return argument
        if verb == "birth":
            return self.birth.decode()
        if verb == "incr":
            value = int(self.parts.get("counter", b"0")) + 1
            self.parts["counter"] = self.changed["counter"] = str(value).encode()
            return str(value)
        if verb == "tally":
            self.changed["+tally"] = argument.encode()
            self.parts["+tally"] = str(int(self.parts.get("+tally", b"0")) + int(argument)).encode()
            return "counted"
        if verb == "part":
            return self.parts.get(argument, b"-").decode()
        if verb == "put":
            name, value = argument.split("=")
            self.parts[name] = self.changed[name] = value.encode()
            return "put"
        if verb == "sleep-put":
            seconds, said = argument.split(" ")
            time.sleep(float(seconds))
            name, value = said.split("=")
            self.parts[name] = self.changed[name] = value.encode()
            return "put"
        if verb == "hold":  # so many MiB, really touched
            self.held = os.urandom(int(argument) << 20)
            return "held"
        if verb == "spin":
            until = time.process_time() + float(argument)
            while time.process_time() < until:
                pass
            return "spun"
        if verb == "spin-in-c":  # one call that does not come back to the interpreter for hours
            return str(sum(itertools.repeat(1, 10**13)))
        if verb == "hold-on":
            self.held = os.urandom(int(argument) << 20)
            time.sleep(60)
        if verb == "kill-self":
            os.kill(os.getpid(), signal.SIGKILL)
        if verb == "fork":
            self.children = [subprocess.Popen(["sleep", "60"]) for _ in range(int(argument))]
            return "forked"
        if verb == "scratch":
            folder, size = argument.split(" ")
            Path(folder, f"file{time.monotonic_ns()}").write_bytes(bytes(int(size)))
            return "written"
        if verb == "open-files":
            self.files = [os.open(os.devnull, os.O_RDONLY) for _ in range(int(argument))]
            return "opened"
        if verb == "die-once":  # leaves a mark first; lives where it finds it
            if Path(argument).exists():
                return "lived"
            Path(argument).touch()
            os._exit(9)
        if verb == "events":
            for index in range(int(argument)):
                self.channel.send(Kind.EVENT, number, str(index).encode())
            return "done"
        if verb == "begin":  # tells of it before it sleeps
            self.channel.send(Kind.EVENT, number, b"begun")
            time.sleep(float(argument))
            return "slept"
        if verb == "print":
            print("x" * int(argument))
            return "printed"
        if verb == "write1":
            os.write(1, argument.encode())
            return "written"
        if verb == "sleep":
            time.sleep(float(argument))
            return "slept"
        if verb == "stubborn":  # deaf to the interrupt and to SIGTERM
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
            time.sleep(float(argument))
            return "slept"
        if verb == "sleep-then-touch":
            seconds, path = argument.split(" ")
            child = f"import time; time.sleep({seconds}); open({path!r}, 'w').close()"
            subprocess.Popen([sys.executable, "-c", child])
            time.sleep(float(seconds))
            return "touched"
        if verb == "child":
            return str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
        if verb == "exit":
            os._exit(int(argument))
        if verb == "segfault":
            import ctypes

            ctypes.string_at(0)
        if verb == "fds":
            return " ".join(sorted(os.listdir("/proc/self/fd")))
        if verb == "ppid":
            return str(os.getppid())
        if verb == "threads":
            return str(threading.active_count())
        raise ValueError(verb)


def serve(channel: Channel, gate: InterruptGate) -> None:
    Toy(channel, gate).run()


def connected_preload() -> None:
    import socket

    listening = socket.create_server(("127.0.0.1", 0))
    kept_open.append(socket.create_connection(listening.getsockname()))
    kept_open.append(listening)


kept_open: list[object] = []
asked: list[bool] = []


def verify_once() -> list[str]:
    """Virgin when first asked, at the start; used ever after."""
    asked.append(True)
    return ["a model has been used"] if len(asked) > 1 else []
