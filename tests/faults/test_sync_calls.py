"""Thousands of calls from synchronous code: all on one connection, and each leaves nothing behind.

The calls run in a process of their own, whose memory is looked at before and after. The server counts connections.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tests.conftest import ROOT

#: Bytes that a process may grow by, whatever the number of calls: what allocators keep, and no more.
GROWTH = 1024 * 1024

#: Thousands are of the kind that sites make most, from one thread and from 20. What differs in the others is the
#: message, and a leak of an event loop shows in hundreds. Each call costs half a millisecond, in the event loop that
#: `async_to_sync` makes for it.
CALLS = 4_000
FEWER = 300

PROGRAM = """
    import gc, json, os, sys, threading, time
    import redis
    from asgiref.sync import async_to_sync
    from channels_redis_fast.core import RedisChannelLayer
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    url, work, threads, count = sys.argv[1:]
    threads, count = int(threads), int(count)
    raw = redis.Redis.from_url(url, single_connection_client=True)

    def opened():
        return raw.info("stats")["total_connections_received"]

    def resident():
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    if work.startswith("core"):
        layer = RedisChannelLayer(hosts=[url], capacity=2_000_000, expiry=900)
    else:
        layer = RedisPubSubChannelLayer(hosts=[url])
    function = layer.group_send if "group" in work else layer.send
    call = getattr(layer.sync, function.__name__) if "native" in work else async_to_sync(function)
    before = opened()
    if work == "core group":
        layer.sync.group_add("target", "member")

    def several(number):
        for n in range(number):
            call("target", {"n": n, "text": "x" * 100})

    def run(number):
        if threads == 1:
            return several(number)
        workers = [threading.Thread(target=several, args=(number // threads,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    run(max(count // 4, 10 * threads))
    small = resident() if os.path.exists("/proc/self/statm") else None
    run(count)
    grown = None if small is None else resident() - small
    # The I/O thread lets go of the last call a moment after it has answered it.
    deadline = time.monotonic() + 10
    while layer._router._transient and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    stats = layer.stats()
    print(json.dumps({
        "grown": grown, "opened": opened() - before, "open": stats["connections_open"],
        "in flight": stats["commands_in_flight"], "calls": stats["sends"] + stats["group_sends"],
        "loops": len(layer._loops), "passing": len(layer._router._transient), "threads": threading.active_count(),
        "stored": raw.zcard("asgitarget"),
    }))
"""

CASES = [("core send", threads, CALLS) for threads in (1, 20)]
CASES += [
    (work, threads, FEWER)
    for work in ("core group", "core send, native", "pubsub send", "pubsub group", "pubsub group, native")
    for threads in (1, 20)
]


@pytest.mark.parametrize(("work", "threads", "count"), CASES, ids=[f"{work}, {n} threads" for work, n, _ in CASES])
def test_connections_and_memory_stay_flat(own_server: Any, work: str, threads: int, count: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), own_server().url, work, str(threads), str(count)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110, cwd=ROOT)
    assert ended.stderr == ""
    told = json.loads(ended.stdout)
    assert told["opened"] == told["open"] == 1
    # The I/O thread's loop, and no other.
    assert (told["in flight"], told["loops"], told["passing"], told["threads"]) == (0, 1, 0, 2)
    warm = max(count // 4, 10 * threads)
    assert told["calls"] == warm // threads * threads + count // threads * threads
    if work.startswith("core send"):
        assert told["stored"] == told["calls"], "calls returned whose message is not there"
    if os.path.exists("/proc/self/statm"):
        assert told["grown"] < GROWTH
