"""gevent: its greenlets share one OS thread, so there is no I/O thread, and calls do without.

Unchanged code works as with ``sync_hub="never"``; ``layer.sync`` says clearly that it cannot.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from channels_redis_fast.hot import COMPILED
from tests.sync.helpers import run_program

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="needs gevent"),
    pytest.mark.skipif(not COMPILED, reason="the same as compiled"),
]

PROGRAM = """
    from gevent import monkey
    monkey.patch_all()
    import asyncio, json, sys, threading
    import gevent
    from asgiref.sync import async_to_sync
    from channels_redis_fast.sync import hub
    from channels_redis_fast.core import RedisChannelLayer
    from channels_redis_fast.pubsub import RedisPubSubChannelLayer

    url, prefix, kind, sync_hub = sys.argv[1:]
    classes = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
    layer = classes[kind](hosts=[url], prefix=prefix, sync_hub=sync_hub)
    for n in range(5):
        async_to_sync(layer.group_send)("room", {"n": n})
        asyncio.run(layer.send("target", {"n": n}))
        # In greenlets, one after the other: asyncio allows one running loop in an OS thread.
        gevent.spawn(async_to_sync(layer.send), "target", {"n": 10 + n}).get(timeout=30)
        worker = threading.Thread(target=async_to_sync(layer.send), args=("target", {"n": 20 + n}))
        worker.start()
        worker.join(30)
    try:
        layer.sync.send("target", {"n": 100})
        error = "none"
    except RuntimeError as raised:
        error = str(raised)
    print(json.dumps({"error": error, "hub": hub._process.hub is not None, "stats": layer.stats()}))
"""


@pytest.mark.parametrize(("kind", "sync_hub"), [("core", "auto"), ("core", "always"), ("pubsub", "auto")])
def test_everything_is_patched(redis_server: Any, prefix: str, raw: Any, kind: str, sync_hub: str) -> None:
    told = run_program(PROGRAM, redis_server.url, prefix, kind, sync_hub)
    assert (told.returncode, told.stderr) == (0, "")
    found = json.loads(told.stdout)
    assert found["error"] == "gevent has replaced threads with its own, in which no second event loop can run"
    assert not found["hub"]
    assert found["stats"]["sends"] == 15
    assert found["stats"]["connections_open"] == 0
    if kind == "core":
        assert raw.zcard(f"{prefix}target") == 15
