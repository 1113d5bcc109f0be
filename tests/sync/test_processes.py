"""Forked and spawned processes: the I/O thread is the parent's, and a child that needs one starts its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.hot import COMPILED
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.sync import hub
from tests.core.helpers import clients, named
from tests.scenarios import fork
from tests.sync.helpers import ROOMY, run_program, wait_until

Make = Callable[..., Any]

#: Celery's `--max-tasks-per-child`: each child does one task.
RECYCLED = 50 if COMPILED else 5


@pytest.fixture
def host(redis_server: Any, prefix: str) -> dict[str, Any]:
    """The shared server, under a name by which its connections are found."""
    return named(redis_server.url, prefix)


def call_in_both_ways(layer: Any, channel: str, n: int) -> None:
    async_to_sync(layer.send)(channel, {"n": n})
    layer.sync.send(channel, {"n": n + 1})


def ended(pid: int) -> int:
    """Wait for a child, which its own alarm bounds."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_children_of_a_process_that_has_called(make: Make, place_of: Any, host: Any, raw: Any, prefix: str) -> None:
    """gunicorn --preload: the parent has an I/O thread and a connection, which stay its own."""
    layer = make(hosts=[host])
    place = place_of(layer)
    call_in_both_ways(layer, place.channel, 0)
    before = {client["id"] for client in clients(raw, prefix)}
    assert len(before) == 1
    children = [fork(lambda n=n: call_in_both_ways(layer, place.channel, n)) for n in (10, 20, 30)]
    assert [ended(pid) for pid in children] == [0, 0, 0]
    call_in_both_ways(layer, place.channel, 40)
    heard = [message["n"] for message in place.heard(10)]
    assert sorted(heard) == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]
    # One for the parent all the time, and one for each child.
    wait_until(lambda: {client["id"] for client in clients(raw, prefix)} == before)
    assert layer.stats()["reconnects"] == 0


def test_forks_while_other_threads_are_in_calls(make: Make, place_of: Any) -> None:
    """What they hold at that moment, the child must not wait for."""
    layer = make()
    place = place_of(layer)
    call_in_both_ways(layer, place.channel, 0)
    done = threading.Event()
    sent = [0] * 4

    def work(index: int) -> None:
        while not done.is_set():
            call_in_both_ways(layer, place.channel, 1)
            sent[index] += 2

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sent))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            assert ended(fork(lambda: call_in_both_ways(layer, place.channel, 100))) == 0
    finally:
        done.set()
        for thread in threads:
            thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    heard = [message["n"] for message in place.heard(sum(sent) + 32)]
    assert sum(n >= 100 for n in heard) == 30
    assert len(heard) == sum(sent) + 32


def test_a_child_that_forks_again(make: Make, place_of: Any) -> None:
    layer = make()
    place = place_of(layer)
    call_in_both_ways(layer, place.channel, 0)

    def child() -> None:
        call_in_both_ways(layer, place.channel, 10)
        assert ended(fork(lambda: call_in_both_ways(layer, place.channel, 20))) == 0
        call_in_both_ways(layer, place.channel, 30)

    assert ended(fork(child)) == 0
    assert [message["n"] for message in place.heard(8)] == [0, 1, 10, 11, 20, 21, 30, 31]


def test_a_child_that_makes_no_call_starts_nothing(make: Make, place_of: Any) -> None:
    layer = make()
    layer.sync.send(place_of(layer).channel, {"n": 0})

    def child() -> None:
        assert hub._process.hub is None
        assert threading.active_count() == 1
        assert layer.stats()["connections_open"] == 0

    assert ended(fork(child)) == 0


def test_recycled_processes(make: Make, place_of: Any, host: Any, raw: Any, prefix: str) -> None:
    """One after the other, each with one call; the parent calls in between."""
    layer = make(hosts=[host])
    place = place_of(layer)
    for n in range(RECYCLED):
        assert ended(fork(lambda n=n: layer.sync.send(place.channel, {"n": n}))) == 0
        if n == RECYCLED // 2:
            layer.sync.send(place.channel, {"n": -1})
    heard = [message["n"] for message in place.heard(RECYCLED + 1)]
    assert sorted(heard) == list(range(-1, RECYCLED))
    wait_until(lambda: len(clients(raw, prefix)) == 1)


ENDS = """
    import os, sys, threading
    from asgiref.sync import async_to_sync
    from channels_redis_fast.core import RedisChannelLayer
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    url, prefix, end = sys.argv[1:]
    # Nobody receives, and how many calls there are depends on how long the children take.
    options = {"hosts": [url], "prefix": prefix, "capacity": 10**6}
    layers = [RedisChannelLayer(**options), RedisPubSubChannelLayer(**options)]

    def call():
        for layer in layers:
            async_to_sync(layer.send)("target", {"n": 1})
            layer.sync.group_send("room", {"n": 1})

    call()
    # Another thread of the parent is in calls all the time.
    done = threading.Event()
    other = threading.Thread(target=lambda: [call() for _ in iter(done.is_set, True)])
    other.start()
    pids = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            call()
            {"os._exit": os._exit, "sys.exit": sys.exit}[end](7)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [7, 7, 7]
    done.set()
    other.join()
    call()
"""


@pytest.mark.parametrize("end", ["os._exit", "sys.exit"])
def test_children_that_end_in_their_own_way(redis_server: Any, prefix: str, end: str) -> None:
    # Newer Pythons warn of a fork where threads run, which is what is done here.
    told = run_program(ENDS, redis_server.url, prefix, end, PYTHONWARNINGS="ignore:This process:DeprecationWarning")
    assert (told.returncode, told.stderr) == (0, "")


def spawned(kind: str, url: str, prefix: str, pipe: Any) -> None:
    signal.alarm(120)
    layer: Any = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}[kind](hosts=[url], prefix=prefix)
    call_in_both_ways(layer, pipe.recv(), 10)
    pipe.send(sum(thread.name == "channels_redis_fast" for thread in threading.enumerate()))


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_multiprocessing(make: Make, place_of: Any, redis_server: Any, prefix: str, kind: str, way: str) -> None:
    layer = make(capacity=ROOMY)
    place = place_of(layer)
    call_in_both_ways(layer, place.channel, 0)
    mine, theirs = multiprocessing.Pipe()
    context: Any = multiprocessing.get_context(way)
    process = context.Process(target=spawned, args=(kind, redis_server.url, prefix, theirs))
    process.start()
    mine.send(place.channel)
    assert mine.poll(120)
    assert mine.recv() == 1
    process.join(120)
    assert process.exitcode == 0
    assert [message["n"] for message in place.heard(4)] == [0, 1, 10, 11]
