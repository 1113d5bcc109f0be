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


def test_excluded_names_are_iterated_in_the_callers_thread(make: Make, kind: str, place_of: Any) -> None:
    layer = make()
    place = place_of(layer)
    threads = []

    def names() -> Iterator[str]:
        threads.append(threading.current_thread())
        yield place.channel

    layer.sync.group_send(place.group, {"n": 1}, exclude=names())
    layer.sync.group_send_many([(place.group, {"n": 2}, names()), (place.group, {"n": 3})])
    async_to_sync(layer.group_send)(place.group, {"n": 4}, exclude=names())
    async_to_sync(layer.group_send_many)([(place.group, {"n": 5}, names())])
    layer.sync.group_send(place.group, {"n": 6}, exclude=())
    assert len(threads) == 4
    assert not any(thread.name == "channels_redis_fast" for thread in threads)
    heard = place.heard(2 if kind == "core" else 6)
    assert [message["n"] for message in heard if "__exclude__" not in message] == [3, 6]
    assert [message["n"] for message in heard if "__exclude__" in message] == ([] if kind == "core" else [1, 2, 4, 5])
    with pytest.raises(TypeError, match="not str"):
        layer.sync.group_send(place.group, {}, exclude=place.channel)


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
