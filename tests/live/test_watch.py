"""What is seen of the layers, and what looking costs: one look each second, whoever watches; none if nobody does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from channels.layers import get_channel_layer

from bench.server import Server
from channels_redis_fast.live import watch
from tests.core.helpers import within
from tests.live.conftest import STAFF, content, visit
from tests.places import wait_until

Call = Callable[..., Any]


def names_of_connections(server: Server) -> list[str]:
    with redis.Redis.from_url(server.url) as client:
        return [connection["name"] for connection in client.client_list()]


async def test_what_a_frame_shows(site: Call, prefix: str) -> None:
    site(default="core", other="pubsub")
    core, pubsub = get_channel_layer(), get_channel_layer("other")
    for number in range(60):
        await core.group_add("room", f"specific.x!{number}")
    await core.group_add("small", "specific.x!1")
    for _ in range(25):
        await core.send("thumbnails", {"type": "job"})
    channel = await pubsub.new_channel()
    await pubsub.group_add("hall", channel)
    shown = content(await within(watch.next_frame(0)))
    try:
        assert (shown["default"]["kind"], shown["other"]["kind"]) == ("core", "pubsub")
        assert shown["default"]["stats"]["sends"] == 25
        picture = shown["default"]["picture"]
        assert picture["shards"][0]["connections"]["core:commands"] >= 1
        assert picture["shards"][0]["cpu_seconds"] > 0
        (row,) = picture["channels"]["rows"]
        assert (row["name"], row["waiting"], row["capacity"], row["fill"]) == ("thumbnails", 25, 100, 0.25)
        assert (picture["groups"]["total"], picture["groups"]["members"]) == (2, 61)
        assert [group["name"] for group in picture["groups"]["rows"]] == ["room", "small"]
        picture = shown["other"]["picture"]
        assert picture["groups"]["rows"] == [{"name": "hall", "shard": 0, "members": 1}]
        assert picture["subscribed_channels"] == 1
    finally:
        await core.close_pools()
        await pubsub.close_pools()


async def test_one_look_for_all_who_watch(site: Call, own_server: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets and polls, of several threads: each second one question to the server, and afterwards none."""
    monkeypatch.setattr(watch, "IDLE", 0.2)
    monkeypatch.setattr(watch, "PAUSE", 0)
    server = own_server()
    site(server.url, default="core")
    began = time.monotonic()
    sockets = [visit(STAFF) for _ in range(5)]
    for socket in sockets:
        assert (await socket.connect())[0]

    async def poll() -> None:
        for _ in range(10):
            await asyncio.to_thread(watch.current_frame)
            await asyncio.sleep(0.1)

    frames = [[await within(socket.receive_from(5)) for socket in sockets]]
    await asyncio.gather(*(poll() for _ in range(3)))
    frames.append([await within(socket.receive_from(5)) for socket in sockets])
    assert all(len(set(same)) == 1 for same in frames)
    assert frames[0][0] != frames[1][0]
    with redis.Redis.from_url(server.url) as client:
        looks = client.info("commandstats")["cmdstat_info"]["calls"]
        # Of the survey; this one is not counted yet.
        assert 1 <= looks <= (time.monotonic() - began) / watch.INTERVAL + 1
    assert names_of_connections(server).count("channels_redis_fast:core:live") == 1
    for socket in sockets:
        await socket.disconnect()
    await asyncio.to_thread(
        wait_until, lambda: "channels_redis_fast:core:live" not in names_of_connections(server), "closed when idle"
    )


async def test_a_server_that_goes_and_comes_back(site: Call, own_server: Call) -> None:
    """Frames go on, with the reason; the layer on another server is seen as before."""
    server = own_server()
    site(server.url, default="core")
    frame = await within(watch.next_frame(0))
    assert content(frame)["default"]["picture"]["shards"][0]["error"] is None
    server.kill()

    async def next_with(condition: Callable[[Any], bool]) -> None:
        nonlocal frame
        for _ in range(10):
            frame = await within(watch.next_frame(frame.number))
            if condition(content(frame)["default"]["picture"]["shards"][0]["error"]):
                return
        raise AssertionError(frame.text)

    await next_with(lambda error: error is not None and str(server.port) in error)
    assert content(frame)["default"]["picture"]["notes"][0]["level"] == "bad"
    server.restart()
    await next_with(lambda error: error is None)


def test_a_layer_that_cannot_be_made_or_is_of_another_package(settings: Call) -> None:
    settings(
        CHANNEL_LAYERS={
            "wrong": {"BACKEND": "channels_redis_fast.core.RedisChannelLayer", "CONFIG": {"capacity": "s3cret"}},
            "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
        }
    )
    # Not a frame that another test has left.
    wait_until(lambda: "wrong" in content(watch.current_frame()), "a frame of these layers")
    frame = watch.current_frame()
    assert "s3cret" not in frame.text
    shown = content(frame)
    assert "manage.py check" in shown["wrong"]["error"]
    assert shown["memory"]["backend"] == "channels.layers.InMemoryChannelLayer"
