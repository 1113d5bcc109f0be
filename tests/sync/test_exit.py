"""A process that has called ends in every way that processes end in: soon, and without a word of ours.

Each program prints "sent" for what it was told is done, and that is there afterwards.
"""

from __future__ import annotations

import signal
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import Any

import pytest

from bench.server import Server
from channels_redis_fast.hot import COMPILED
from tests.conftest import ROOT
from tests.sync.helpers import Link, run_program

#: Threads and the end of a process are the same for both twins, and a process takes its second to start.
pytestmark = pytest.mark.skipif(not COMPILED, reason="the same as compiled")

#: In front of each: layers of both kinds, used in both ways.
BEGIN = """
import asyncio, atexit, os, signal, sys, threading, time
@atexit.register
def registered_first():
    # Runs last, when the layers' own part of the end is over.
    for function in at_the_very_end:
        function()
at_the_very_end = []
from channels_redis_fast.sync import hub
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer

url, prefix = sys.argv[1:]
def make():
    options = {"hosts": [url], "prefix": prefix, "capacity": 10**6}
    return [RedisChannelLayer(**options), RedisPubSubChannelLayer(**options)]
layers = make()

def send():
    for layer in layers:
        asyncio.run(layer.send("target", {"n": 1}))
        layer.sync.send("target", {"n": 2})
    print("sent", flush=True)

def again_and_again():
    while True:
        for layer in layers:
            layer.sync.send("target", {"n": 3})
            asyncio.run(layer.send("target", {"n": 4}))

def daemon(work):
    threading.Thread(target=work, daemon=True).start()

said = threading.Semaphore(0)
def say(text):
    os.write(1, f"{text}\\n".encode())
    said.release()

def listen_at_the_very_end():
    # A daemon thread that wakes when the interpreter is further than that says nothing any more.
    at_the_very_end.append(lambda: [said.acquire(timeout=30) for layer in layers])

def wait_less_at_the_end():
    hub.STOP_TIMEOUT = 0.3
"""

#: What comes then, and the exit code.
ENDS: dict[str, tuple[str, int]] = {
    "without a call": ("", 0),
    "falls off the end": ("send()", 0),
    "sys.exit": ("send(); sys.exit(3)", 3),
    "os._exit": ("send(); os._exit(4)", 4),
    "threads that are waited for": ("[threading.Thread(target=send).start() for _ in range(5)]", 0),
    "sys.exit in a thread": ("threading.Thread(target=lambda: (send(), sys.exit(5))).start()", 0),
    "an atexit handler that sends": ("send(); atexit.register(send)", 0),
    "a handler of the very end": ("send(); at_the_very_end.append(send)", 0),
    "a handler of the very end makes the first call": ("at_the_very_end.append(send)", 0),
    "daemon threads in calls": ("[daemon(again_and_again) for _ in range(5)]; time.sleep(0.1)", 0),
    "inside of a loop": (
        """
        async def main():
            for layer in layers:
                await layer.send("target", {})
                asyncio.ensure_future(layer.send("target", {}))
            await asyncio.sleep(0)
            sys.exit(6)
        asyncio.run(main())
        """,
        6,
    ),
    "layers that are gone": ("send(); layers.clear()", 0),
    "many layers": ("for _ in range(20):\n    layers += make()\nsend()", 0),
    "SIGTERM": ("send(); daemon(again_and_again); os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
}


def run(url: str, prefix: str, end: str) -> Any:
    began = time.monotonic()
    told = run_program(BEGIN + textwrap.dedent(end), url, prefix, seconds=90)
    assert time.monotonic() - began < 45
    return told


@contextmanager
def begun(url: str, prefix: str, end: str) -> Any:
    """A program that has come to where it says that it is ready."""
    command = [sys.executable, "-W", "error", "-c", BEGIN + textwrap.dedent(end), url, prefix]
    process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, cwd=ROOT)
    with process:
        assert process.stdout is not None
        try:
            while process.stdout.readline() != "ready\n":
                assert process.poll() is None
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("end", ENDS)
def test_ends(redis_server: Any, prefix: str, raw: Any, end: str) -> None:
    program, code = ENDS[end]
    told = run(redis_server.url, prefix, program)
    assert (told.returncode, told.stderr) == (code, "")
    assert raw.zcard(f"{prefix}target") >= 2 * told.stdout.count("sent")
    assert ("sent" in told.stdout) == ("send()" in program or "send)" in program or "target=send" in program)


def test_an_unhandled_exception_is_all_that_is_told(redis_server: Any, prefix: str) -> None:
    told = run(redis_server.url, prefix, "send(); raise ValueError('of the site')")
    assert told.returncode == 1
    assert "channels_redis_fast" not in told.stderr
    assert told.stderr.count("Traceback") == 1


def test_what_daemon_threads_have_under_way_is_waited_for(server: Server, link: Link, prefix: str) -> None:
    """The server is slow, and the process ends in the middle of a call: the call is carried out."""
    link.proxy.delay = 0.2
    end = r"""
        def work(layer):
            layer.sync.send("target", {"n": 3})
            say("sent")
        listen_at_the_very_end()
        for layer in layers:
            daemon(lambda layer=layer: work(layer))
        # Pub/Sub counts what is done, the core layer what is begun.
        while not all(layer.stats()["sends"] or layer.stats()["commands_in_flight"] for layer in layers):
            time.sleep(0.01)
    """
    told = run(link.url, prefix, end)
    assert (told.returncode, told.stderr, told.stdout) == (0, "", "sent\nsent\n")


@pytest.mark.parametrize("under_way", [False, True], ids=["nothing under way", "calls under way"])
def test_the_server_is_gone(own_server: Callable[..., Server], prefix: str, under_way: bool) -> None:
    server = own_server()
    end = f"""
        import redis
        wait_less_at_the_end()
        raw = redis.Redis.from_url(url)
        send()
        def work(layer):
            while True:
                try:
                    layer.sync.send("target", {{"n": 3}})
                except redis.ConnectionError:
                    time.sleep(0.01)
        if {under_way}:
            for layer in layers:
                daemon(lambda layer=layer: work(layer))
        os.kill(raw.info("server")["process_id"], signal.SIGKILL)
        while any(layer.stats()["connections_open"] for layer in layers):
            time.sleep(0.01)
    """
    told = run(server.url, prefix, end)
    assert told.returncode == 0
    # What goes to the log, one line for each layer, since nobody has configured any.
    lines = told.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"Connection to Redis at 127.0.0.1:{server.port} lost: ") for line in lines)


def test_the_server_says_nothing(server: Server, link: Link, prefix: str) -> None:
    """Bounded: the end waits some seconds for calls under way, and the threads that made them hear of it."""
    end = r"""
        def work(layer):
            try:
                while True:
                    layer.sync.send("target", {"n": 3})
            except Exception as error:
                say(f"{type(error).__name__}: {error}")
                time.sleep(60)
        wait_less_at_the_end()
        listen_at_the_very_end()
        for layer in layers:
            daemon(lambda layer=layer: work(layer))
        def wait_for(name, least):
            while not all(layer.stats()[name] >= least for layer in layers):
                time.sleep(0.01)
        wait_for("sends", 2)
        print("ready", flush=True)
        sys.stdin.readline()
        wait_for("commands_in_flight", 1)
    """
    with begun(link.url, prefix, end) as process:
        link.do(link.proxy.stall)
        stdout, stderr = process.communicate("\n", timeout=90)
        assert (process.returncode, stderr) == (0, "")
        assert stdout == "ConnectionError: the answer did not come before the interpreter ended\n" * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signals_from_outside(redis_server: Any, prefix: str, number: int) -> None:
    """As Ctrl-C or a supervisor sends them, while threads call and the main thread does too."""
    end = """
        daemon(again_and_again)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("ready", flush=True)
        again_and_again()
    """
    with begun(redis_server.url, prefix, end) as process:
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (-number, 130)
        assert "Exception in thread" not in stderr
        assert stderr == "" or stderr.rstrip().endswith("KeyboardInterrupt")
