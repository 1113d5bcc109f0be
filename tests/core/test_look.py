"""What a program may ask a layer: how many are in a group, who they are, how many messages wait on a channel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError

from bench.server import Server, free_port
from channels_redis_fast.core import RedisChannelLayer, keys
from tests.core.helpers import receive_many, within

MakeLayer = Callable[..., RedisChannelLayer]

LONG_AGO = 100


async def test_members_are_counted_and_named_in_any_process(make_layer: MakeLayer) -> None:
    layers = [make_layer(), make_layer()]
    channels = [await layers[n % 2].new_channel() for n in range(6)] + ["general"]
    for channel in channels:
        await layers[0].group_add("room", channel)
    await layers[0].group_add("another", channels[0])
    await layers[1].group_discard("room", channels[3])
    # Again: it counts once, and is now the last.
    await layers[1].group_add("room", channels[0])
    expected = [*channels[1:3], *channels[4:], channels[0]]
    for layer in layers:
        assert await layer.group_count("room") == 6
        assert await layer.group_channels("room") == expected
        assert (await layer.group_count("nobody"), await layer.group_channels("nobody")) == (0, [])


async def test_members_whose_time_is_over_do_not_count(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    """Nor would `group_send` reach them. They are not removed either: looking changes nothing."""
    layer = make_layer(group_expiry=LONG_AGO)
    now = time.time()
    key = f"{prefix}:group:room"
    raw.zadd(key, {"expired": now - LONG_AGO - 2, "last": now - LONG_AGO + 60, "new": now})
    assert await layer.group_count("room") == 2
    assert await layer.group_channels("room") == ["last", "new"]
    assert raw.zcard(key) == 3
    await layer.group_send("room", {"n": 1})
    assert [await layer.channel_depth(channel) for channel in ("expired", "last", "new")] == [0, 1, 1]


async def test_the_limit_of_a_membership_is_that_of_group_send(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(group_expiry=LONG_AGO)
    now = int(time.time())
    monkeypatch.setattr("time.time", lambda: now + 0.5)
    raw.zadd(f"{prefix}:group:room", {"on-the-limit": now - LONG_AGO, "inside": now - LONG_AGO + 0.001})
    assert (await layer.group_count("room"), await layer.group_channels("room")) == (1, ["inside"])
    await layer.group_send("room", {"n": 1})
    assert raw.zcard(f"{prefix}:group:room") == 1


async def test_a_member_that_is_no_text_is_left_out(
    make_layer: MakeLayer, raw: redis.Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw.zadd(f"{prefix}:group:room", {b"\xff\xfe": time.time(), "good": time.time()})
    assert await make_layer().group_channels("room") == ["good"]
    assert "not a channel name" in caplog.text


async def test_groups_are_looked_for_on_their_shard(make_layer: MakeLayer, shard_urls: list[str]) -> None:
    layer = make_layer(hosts=shard_urls)
    groups = [f"room{n}" for n in range(20)]
    for size, group in enumerate(groups):
        for n in range(size):
            await layer.group_add(group, f"member{n}")
    assert len({layer.consistent_hash(group) for group in groups}) > 1
    assert [await layer.group_count(group) for group in groups] == list(range(20))
    assert [len(await layer.group_channels(group)) for group in groups] == list(range(20))


async def test_what_waits_on_a_general_channel(make_layer: MakeLayer, shard_urls: list[str]) -> None:
    """On whichever shards, as any process sees it; until it is received."""
    layer, peer = make_layer(hosts=shard_urls), make_layer(hosts=shard_urls)
    assert await layer.channel_depth("jobs") == 0
    for n in range(7):
        await layer.send("jobs", {"n": n})
    await layer.send("other", {})
    assert (await layer.channel_depth("jobs"), await peer.channel_depth("jobs")) == (7, 7)
    await receive_many(peer, "jobs", 3)
    assert await layer.channel_depth("jobs") == 4


async def test_specific_channels_of_one_kind_share_their_depth(make_layer: MakeLayer) -> None:
    owner, peer = make_layer(), make_layer()
    first, second, other = await owner.new_channel(), await owner.new_channel(), await owner.new_channel("other")
    for channel in (first, first, second, other):
        await peer.send(channel, {})
    assert [await peer.channel_depth(channel) for channel in (first, second, other)] == [3, 3, 1]
    await receive_many(owner, first, 2)
    # The message of the second channel came along, and waits in the process: in Redis there is nothing left.
    await receive_many(owner, second, 1)
    await until_empty(peer, first)


async def until_empty(layer: RedisChannelLayer, channel: str) -> None:
    while await within(layer.channel_depth(channel)):
        pass


async def test_what_upstream_put_on_another_shard_counts(
    make_layer: MakeLayer, shard_urls: list[str], raw_shards: list[redis.Redis], prefix: str
) -> None:
    layer = make_layer(hosts=shard_urls)
    channel = await layer.new_channel()
    key = prefix + layer.non_local_name(channel)
    for n, shard in enumerate(raw_shards):
        shard.zadd(key, {b"%012d" % n: time.time()})
        shard.expire(key, 60)
    assert await layer.channel_depth(channel) == len(raw_shards)


async def test_what_has_expired_does_not_count(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer(expiry=LONG_AGO)
    now = time.time()
    raw.zadd(f"{prefix}jobs", {b"expired": now - LONG_AGO - 2, b"last": now - LONG_AGO + 60, b"new": now})
    assert await layer.channel_depth("jobs") == 2
    assert raw.zcard(f"{prefix}jobs") == 3


async def test_messages_expire_by_the_clock_that_stamped_them(
    make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's: this process' may be wrong."""
    layer = make_layer()
    await layer.send("jobs", {})
    now = time.time()
    monkeypatch.setattr(keys.time, "time", lambda: now + 3600)
    assert await layer.channel_depth("jobs") == 1


async def test_the_clock_of_this_process_where_the_server_tells_no_time(
    own_server: Callable[..., Server], make_layer: MakeLayer
) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chat", "on", ">secret", "~*", "+@all", "-time", "-@scripting")
        layer = make_layer(hosts=[f"redis://chat:secret@127.0.0.1:{server.port}"], prefix="asgi", expiry=LONG_AGO)
        await layer.send("jobs", {})
        raw.zadd("asgijobs", {b"expired": time.time() - LONG_AGO - 2})
        assert await layer.channel_depth("jobs") == 1
        await layer.close_pools()


async def test_looking_leaves_nothing(make_layer: MakeLayer, raw: redis.Redis, prefix: str) -> None:
    layer = make_layer()
    await layer.group_count("room")
    await layer.group_channels("room")
    await layer.channel_depth("jobs")
    assert list(raw.scan_iter(f"{prefix}*")) == []


@pytest.mark.parametrize("name", ["", "with space", "x" * 100, None, b"room", 5, "über", "room\n"])
async def test_names_are_judged_as_everywhere(make_layer: MakeLayer, name: Any) -> None:
    layer = make_layer()

    async def heard(call: Any) -> str:
        try:
            await call
        except TypeError as error:
            return str(error)
        return "taken"

    group = await heard(layer.group_discard(name, "channel"))
    assert [await heard(layer.group_count(name)), await heard(layer.group_channels(name))] == [group, group]
    assert await heard(layer.channel_depth(name)) == await heard(layer.group_discard("room", name))


async def test_a_layer_with_rules_of_its_own(make_layer: MakeLayer, shard_urls: list[str]) -> None:
    class Own(RedisChannelLayer):
        def consistent_hash(self, value: str | bytes) -> int:
            return 3

        def require_valid_group_name(self, name: object) -> bool:
            if name == "closed":
                raise TypeError("closed")
            return True

    layer = make_layer(Own, hosts=shard_urls)
    await layer.group_add("ours", "member")
    assert await layer.group_count("ours") == 1
    with pytest.raises(TypeError, match="closed"):
        await layer.group_count("closed")


async def test_a_server_that_is_not_there(make_layer: MakeLayer) -> None:
    port = free_port()
    layer = make_layer(hosts=[("127.0.0.1", port)])
    for call in (layer.group_count("room"), layer.group_channels("room"), layer.channel_depth("jobs")):
        with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}"):
            await within(call)


@pytest.mark.single_server("the way to a node may begin at another")
async def test_however_many_ask_it_is_one_connection(make_layer: MakeLayer) -> None:
    layer = make_layer()
    assert await within(asyncio.gather(*(layer.group_count("room") for _ in range(50)))) == [0] * 50
    assert layer.stats()["connections_open"] == 1
