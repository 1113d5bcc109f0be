"""What is the caller's code runs where the caller does; what the site sets for its loops is not the hub's."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from channels_redis_fast.sync import hub

Make = Callable[..., Any]


@pytest.mark.parametrize("method", ["send_many", "group_send_many"])
def test_a_generator_runs_in_the_callers_thread(make: Make, method: str) -> None:
    layer = make()
    threads = []

    def messages() -> Iterator[tuple[str, dict[str, Any]]]:
        for n in range(3):
            threads.append(threading.current_thread())
            yield "there", {"n": n}

    getattr(layer.sync, method)(messages())
    async_to_sync(getattr(layer, method))(messages())
    assert len(threads) == 6
    assert not any(thread.name == "channels_redis_fast" for thread in threads)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_a_policy_with_eager_tasks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Eager(asyncio.DefaultEventLoopPolicy):  # type: ignore[misc, unused-ignore]
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            loop = super().new_event_loop()
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined, unused-ignore]
            return loop

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Eager())
    monkeypatch.setattr(hub._process, "hub", None)
    try:
        layer = make()
        layer.sync.send("there", {"n": 1})
        async_to_sync(layer.group_send)("room", {"n": 2})
        asyncio.run(layer.send("there", {"n": 3}))
    finally:
        asyncio.set_event_loop_policy(before)
        if hub._process.hub is not None:
            hub._process.hub.stop()
