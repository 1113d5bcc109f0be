"""Thousands of calls from synchronous code: each has an event loop of its own, and leaves nothing behind.

The calls run in a process of their own, whose memory and connections are looked at while they do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from channels_redis_fast._hot import COMPILED
from tests.conftest import ROOT

#: Bytes that a process may grow by, whatever the number of calls: what allocators keep, and no more.
GROWTH = 5 * 1024 * 1024

#: The promise is about 20,000 calls from one thread and from 20. They take minutes, so they are of the kind that sites
#: make most. What differs in the others is the message, and a leak of an event loop shows in hundreds; pure Python
#: leaks as compiled code does but for objects of its own, which the tests of memory look at.
CALLS = 20_000 if COMPILED else 2_000
FEWER = 600 if COMPILED else 300

PROGRAM = """
    import gc, json, os, sys, threading, time
    import redis
    from asgiref.sync import async_to_sync
    from channels_redis_fast.core import RedisChannelLayer
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    url, prefix, work, threads, count = sys.argv[1:]
    threads, count = int(threads), int(count)
    host = {"address": url, "client_name": prefix}
    raw = redis.Redis.from_url(url)

    def connections():
        return sum(client["name"] == prefix for client in raw.client_list())

    def resident():
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    if work.startswith("core"):
        layer = RedisChannelLayer(hosts=[host], prefix=prefix, capacity=2_000_000, expiry=900)
    else:
        layer = RedisPubSubChannelLayer(hosts=[host], prefix=prefix)
    call = async_to_sync(layer.group_send if "group" in work else layer.send)
    if work == "core group":
        async_to_sync(layer.group_add)("target", "member")

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

    run(max(count // 10, 10 * threads))
    before = resident() if os.path.exists("/proc/self/statm") else None
    done, peak = threading.Event(), 0

    def watch():
        global peak
        while not done.wait(0.05):
            peak = max(peak, connections())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(count)
    done.set()
    watcher.join()
    grown = None if before is None else resident() - before
    # The server hears of the last goodbye a moment later.
    deadline = time.monotonic() + 10
    while connections() and time.monotonic() < deadline:
        time.sleep(0.01)
    stats = layer.stats()
    print(json.dumps({
        "grown": grown, "peak": peak, "left": connections(), "open": stats["connections_open"],
        "in flight": stats["commands_in_flight"], "calls": stats["sends"] + stats["group_sends"],
        "loops": len(layer._loops.items()), "threads": threading.active_count(), "stored": raw.zcard(prefix + "target"),
    }))
"""

CASES = [("core send", threads, CALLS) for threads in (1, 20)]
CASES += [(work, threads, FEWER) for work in ("core group", "pubsub send", "pubsub group") for threads in (1, 20)]


@pytest.mark.timeout(500)
@pytest.mark.parametrize(("work", "threads", "count"), CASES, ids=[f"{work}, {n} threads" for work, n, _ in CASES])
def test_connections_and_memory_stay_flat(redis_server: Any, prefix: str, work: str, threads: int, count: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), redis_server.url, prefix, work, str(threads), str(count)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=480, cwd=ROOT)
    assert ended.stderr == ""
    told = json.loads(ended.stdout)
    # Each thread has one call under way; of the one before, the server may not have noticed the end.
    assert 1 <= told["peak"] <= 2 * threads + 1
    assert told["left"] == told["open"] == told["in flight"] == told["loops"] == 0
    warm = max(count // 10, 10 * threads)
    assert told["calls"] == warm // threads * threads + count // threads * threads
    if work == "core send":
        assert told["stored"] == told["calls"], "calls returned whose message is not there"
    if os.path.exists("/proc/self/statm"):
        assert told["grown"] < GROWTH
    assert told["threads"] == 1
