"""`send_many` and `group_send_many`: in order, together, and refused before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import redis
from channels.exceptions import ChannelFull

from bench.server import Server
from tests.core.helpers import on_database, within
from tests.sync.helpers import Link, wait_until

Make = Callable[..., Any]
Many = Callable[[Any, str, Iterable[Any]], None]


@pytest.fixture(params=["own", "hub", "sync"])
def many(request: pytest.FixtureRequest) -> Many:
    """Call one of the two: on connections of the loop's own, through the I/O thread, or without a loop."""

    def call(layer: Any, method: str, pairs: Iterable[Any]) -> None:
        if request.param == "sync":
            getattr(layer.sync, method)(pairs)
            return

        async def call() -> None:
            if request.param == "own":
                layer._loops[asyncio.get_running_loop()]
            await getattr(layer, method)(pairs)

        asyncio.run(within(call()))

    return call


def numbers(count: int, name: str) -> list[tuple[str, dict[str, int]]]:
    return [(name, {"n": n}) for n in range(count)]


@pytest.mark.parametrize("method", ["send_many", "group_send_many"])
def test_in_order(make: Make, place_of: Any, many: Many, method: str) -> None:
    layer = make()
    place = place_of(layer)
    target = place.channel if method == "send_many" else place.group
    many(layer, method, numbers(200, target))
    assert [message["n"] for message in place.heard(200)] == list(range(200))
    stats = layer.stats()
    assert (stats["sends"], stats["group_sends"])[method == "group_send_many"] == 200


@pytest.mark.parametrize("method", ["send_many", "group_send_many"])
@pytest.mark.parametrize("shape", [iter, tuple, lambda pairs: (pair for pair in pairs)])
def test_anything_that_can_be_gone_through_once(make: Make, place_of: Any, many: Many, method: str, shape: Any) -> None:
    layer = make()
    place = place_of(layer)
    many(layer, method, shape(numbers(5, place.channel if method == "send_many" else place.group)))
    assert [message["n"] for message in place.heard(5)] == list(range(5))


@pytest.mark.parametrize("method", ["send_many", "group_send_many"])
def test_none(make: Make, many: Many, method: str) -> None:
    layer = make(hosts=["redis://127.0.0.1:1"])
    many(layer, method, [])
    assert layer.stats()["batches"] == 0


def test_more_than_fit_one_batch(make: Make, place_of: Any, many: Many) -> None:
    layer = make()
    place = place_of(layer)
    many(layer, "send_many", numbers(2_500, place.channel))
    assert [message["n"] for message in place.heard(2_500)] == list(range(2_500))


def test_to_many_channels(make: Make, prefix: str, raw: Any, many: Many, kind: str) -> None:
    layer = make()
    if kind == "pubsub":
        many(layer, "send_many", [(f"{prefix}{n}", {"n": n}) for n in range(150)])
        assert layer.stats()["sends"] == 150
        return
    many(layer, "send_many", [(f"channel{n}", {"n": n}) for n in range(150)])
    assert [raw.zcard(f"{prefix}channel{n}") for n in range(150)] == [1] * 150


# One batch for each shard.


def commands_of(server: Server) -> dict[str, int]:
    with redis.Redis.from_url(server.url) as raw:
        return {name.removeprefix("cmdstat_"): one["calls"] for name, one in raw.info("commandstats").items()}


@pytest.mark.parametrize("kind", ["core"], indirect=True)
def test_one_batch(make: Make, own_server: Any, many: Many) -> None:
    servers = [own_server(), own_server()]
    layer = make(hosts=[server.url for server in servers])
    many(layer, "send_many", [(f"channel{n}", {"n": n}) for n in range(24)])
    assert layer.stats()["batches"] == 2
    for server in servers:
        commands = commands_of(server)
        assert commands.get("evalsha", 0) + commands.get("eval", 0) == 1
        assert commands["zadd"] == 12


def test_one_batch_on_pubsub(make: Make, own_server: Any, many: Many, kind: str) -> None:
    if kind == "core":
        pytest.skip("see test_one_batch")
    servers = [own_server(), own_server()]
    layer = make(hosts=[server.url for server in servers])
    for method in ("send_many", "group_send_many"):
        before = layer.stats()["batches"]
        many(layer, method, [(f"channel{n}", {"n": n}) for n in range(24)])
        assert layer.stats()["batches"] - before == 2
    assert sum(commands_of(server)["publish"] for server in servers) == 48


@pytest.mark.parametrize("method", ["send_many", "group_send_many"])
def test_all_leave_before_an_answer_comes(make: Make, server: Server, link: Link, place_of: Any, method: str) -> None:
    """However many: they take as many round trips as one of them."""
    layer = make(hosts=[link.url])
    place = place_of(layer, server.url)
    target = place.channel if method == "send_many" else place.group

    def took(count: int) -> float:
        async def timed() -> float:
            began = asyncio.get_running_loop().time()
            await getattr(layer, method)(numbers(count, target))
            return asyncio.get_running_loop().time() - began

        return asyncio.run(within(timed()))

    took(1)
    link.proxy.delay = 0.05
    # One by one it would be 200 times the first.
    assert took(200) < 20 * took(1)
    link.proxy.delay = 0.0
    wait_until(lambda: len(place.messages()) == 202)


# Refused.


@pytest.mark.parametrize("method", ["send_many", "group_send_many"])
@pytest.mark.parametrize("wrong", ["name", "message"])
def test_refused_before_anything_is_sent(make: Make, place_of: Any, many: Many, method: str, wrong: str) -> None:
    layer = make()
    place = place_of(layer)
    target = place.channel if method == "send_many" else place.group
    bad = (5, {}) if wrong == "name" else (target, object())
    with pytest.raises((TypeError, AssertionError)):
        many(layer, method, [*numbers(3, target), bad])
    many(layer, "send_many", [(place.channel, {"n": 10})])
    assert place.heard(1) == [{"n": 10}]


def test_a_value_that_cannot_be_packed(make: Make, place_of: Any, many: Many) -> None:
    """`send_many` packs all before it sends; a group message is packed for its members, and goes alone."""
    layer = make()
    place = place_of(layer)
    with pytest.raises(TypeError, match=f"channel {place.channel}"):
        many(layer, "send_many", [*numbers(3, place.channel), (place.channel, {"value": object})])
    many(layer, "send_many", [(place.channel, {"n": 10})])
    assert place.heard(1) == [{"n": 10}]
    with pytest.raises(TypeError, match=f"group {place.group}"):
        many(layer, "group_send_many", [(place.group, {"value": object}), (place.group, {"n": 11})])
    assert [message["n"] for message in place.heard(2)] == [10, 11]


@pytest.mark.parametrize("kind", ["core"], indirect=True)
def test_full_channels_are_all_named(make: Make, raw: Any, prefix: str, many: Many) -> None:
    layer = make(capacity=2)
    with pytest.raises(ChannelFull) as raised:
        many(
            layer,
            "send_many",
            [(name, {"n": n}) for n in range(4) for name in ("a", "b", "c") if (name, n) != ("b", 3)],
        )
    assert str(raised.value) == "a, b, c"
    with pytest.raises(ChannelFull) as raised:
        many(layer, "send_many", [("a", {}), ("d", {}), ("c", {}), ("a", {})])
    assert str(raised.value) == "a, c"
    # What had room was sent.
    assert [raw.zcard(f"{prefix}{name}") for name in "abcd"] == [2, 2, 2, 1]
    assert layer.stats()["channel_full"] == 8


@pytest.mark.parametrize("kind", ["core"], indirect=True)
@pytest.mark.parametrize("method", ["send_many", "group_send_many"])
def test_an_error_of_the_server_comes_before_full_channels(
    make: Make, raw: Any, prefix: str, many: Many, method: str
) -> None:
    """The others are sent, and the first error in their order is raised."""
    layer = make(capacity=1)
    raw.set(f"{prefix}wrong", "no sorted set")
    raw.set(f"{prefix}:group:wrong", "no sorted set")
    raw.zadd(f"{prefix}:group:room", {"target": 2**40})
    pairs = [("room", {"n": 0}), ("wrong", {"n": 1}), ("room", {"n": 2})]
    if method == "send_many":
        pairs = [("target", {"n": 0}), ("target", {"n": 1}), ("wrong", {"n": 2})]
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        many(layer, method, pairs)
    assert raw.zcard(f"{prefix}target") == 1


@pytest.mark.parametrize("method", ["send_many", "group_send_many"])
def test_one_shard_that_is_away(make: Make, server: Server, many: Many, method: str, kind: str) -> None:
    """What goes to the others arrives, and the error names the host that is away."""
    away = "redis://127.0.0.1:1"
    layer = make(hosts=[server.url, away], expiry=30)
    with pytest.raises(redis.exceptions.ConnectionError, match=r"127\.0\.0\.1:1\b"):
        many(layer, method, [(f"name{n}", {"n": n}) for n in range(20)])
    calls = commands_of(server)
    if kind == "pubsub":
        assert 0 < calls["publish"] < 20
    elif method == "send_many":
        # General channels, in turn.
        assert calls["zadd"] == 10
    else:
        assert 0 < calls["zrange"] < 20


@pytest.mark.parametrize("kind", ["core"], indirect=True)
def test_order_on_several_shards(make: Make, redis_server: Any, prefix: str, many: Many) -> None:
    """Specific channels have each their shard, and on it their order."""
    urls = [on_database(redis_server.url, number) for number in range(3)]
    layer = make(hosts=urls)
    channels = [f"specific.x!{n}" for n in range(1)] + [f"specific.{n}!y" for n in range(8)]
    many(layer, "send_many", [(channel, {"n": n}) for n in range(20) for channel in channels])
    found: dict[str, list[int]] = {}
    for url in urls:
        with redis.Redis.from_url(url) as raw:
            for key in raw.scan_iter(match=f"{prefix}*"):
                for member in raw.zrange(key, 0, -1):
                    message = layer.deserialize(member)
                    found.setdefault(message["__asgi_channel__"], []).append(message["n"])
                raw.unlink(key)
    assert found == {channel: list(range(20)) for channel in channels}
