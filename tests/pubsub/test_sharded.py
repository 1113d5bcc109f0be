"""Sharded Pub/Sub on single servers: its own words on the wire, deaf to plain Pub/Sub, and what refuses it says so.

What it has in common with plain Pub/Sub is tested where that is, both ways (`helpers.both_kinds`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError

from bench.server import Server
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import LIMIT, nothing_to_receive, receive_many, started, until, within
from tests.pubsub.conftest import needs_redis_7
from tests.pubsub.helpers import subscribers

pytestmark = pytest.mark.single_server("tests/cluster has what is different on a cluster")

MakeLayer = Callable[..., RedisPubSubChannelLayer]
OwnServer = Callable[..., Server]

CALLS: dict[str, Callable[[RedisPubSubChannelLayer], Any]] = {
    "new_channel": lambda layer: layer.new_channel(),
    "receive": lambda layer: layer.receive("general"),
    "send": lambda layer: layer.send("general", {}),
    "group_send": lambda layer: layer.group_send("room", {}),
    "send_many": lambda layer: layer.send_many([("general", {})]),
}
SUBSCRIBING = ("new_channel", "receive")


@pytest.fixture
def sharded() -> bool:
    return True


async def test_plain_and_sharded_do_not_hear_each_other(make_layer: MakeLayer, prefix: str) -> None:
    sharded, plain = make_layer(), make_layer(sharded=False)
    name = f"{prefix}general"
    receiving = [await started(layer.receive(name)) for layer in (sharded, plain)]
    for layer in (sharded, plain):
        await layer.group_add("room", name)
    for layer, word in ((plain, "plain"), (sharded, "sharded")):
        await layer.send(name, {"sent": word})
        await layer.group_send("room", {"sent to the group": word})
    assert [await within(task) for task in receiving] == [{"sent": "sharded"}, {"sent": "plain"}]
    for layer, word in ((plain, "plain"), (sharded, "sharded")):
        assert await within(layer.receive(name)) == {"sent to the group": word}
        await nothing_to_receive(layer, name)


async def test_the_wire(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """The names and payloads of plain Pub/Sub, in the commands of sharded Pub/Sub; no other command about channels."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    assert dict(raw.pubsub_shardnumsub(channel, f"{prefix}__group__room")) == {
        channel.encode(): 1,
        f"{prefix}__group__room".encode(): 1,
    }
    assert not raw.pubsub_channels(f"{prefix}*")
    assert raw.execute_command("SPUBLISH", channel, b"\x81\xa1n\x01") == 1
    assert await within(layer.receive(channel)) == {"n": 1}
    with raw.pubsub() as listener:
        listener.ssubscribe(f"{prefix}elsewhere")
        assert listener.get_sharded_message(timeout=LIMIT)["type"] == "ssubscribe"
        await layer.send(f"{prefix}elsewhere", {"n": 1})
        assert listener.get_sharded_message(timeout=LIMIT)["data"] == b"\x81\xa1n\x01"


async def test_a_ring(make_layer: MakeLayer, shard_urls: list[str]) -> None:
    layer, peer = make_layer(hosts=shard_urls), make_layer(hosts=shard_urls)
    channels = [await layer.new_channel() for _ in range(20)]
    for channel in channels:
        await layer.group_add("room", channel)
        await peer.send(channel, {"to": channel})
    await peer.group_send("room", {"n": 1})
    for channel in channels:
        # Two shards: which of the two messages comes first is nobody's promise.
        assert {"n": 1} in (got := await receive_many(layer, channel, 2))
        assert {"to": channel} in got
    for url in shard_urls:
        with redis.Redis.from_url(url) as raw:
            assert raw.pubsub_shardchannels(f"{layer.prefix}*")


async def test_encrypted(make_layer: MakeLayer) -> None:
    layer = make_layer(symmetric_encryption_keys=["one"])
    peer, stranger = make_layer(symmetric_encryption_keys=["one"]), make_layer()
    channel = await layer.new_channel()
    await stranger.send(channel, {"n": 0})
    await peer.send(channel, {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    assert layer.stats()["undecodable"] == 1


def test_from_synchronous_code(make_sync_layer: MakeLayer, redis_server: Any, prefix: str) -> None:
    layer = make_sync_layer()
    with redis.Redis.from_url(redis_server.url) as raw, raw.pubsub() as listener:
        listener.ssubscribe(f"{prefix}general")
        assert listener.get_sharded_message(timeout=LIMIT)["type"] == "ssubscribe"
        layer.sync.send(f"{prefix}general", {"n": 1})
        assert listener.get_sharded_message(timeout=LIMIT)["data"] == b"\x81\xa1n\x01"


@pytest.fixture
def make_sync_layer(redis_server: Any, prefix: str) -> MakeLayer:
    needs_redis_7(redis_server.url)
    return lambda **options: RedisPubSubChannelLayer(
        **{"hosts": [redis_server.url], "prefix": prefix, "sharded": True, **options}
    )


# What refuses it.


@pytest.fixture
def old_server(own_server: OwnServer) -> Server:
    """A server that does not know the commands, as any before Redis 7.0 does not."""
    gone = [option for name in ("SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH") for option in ("--rename-command", name, "")]
    return own_server(*gone)


@pytest.mark.parametrize("call", list(CALLS))
async def test_a_server_that_is_too_old(
    make_layer: MakeLayer, old_server: Server, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each call says which option asks for what which host does not have, the second time as the first."""
    layer = make_layer(hosts=[old_server.url])
    for _ in range(2):
        with pytest.raises(ResponseError) as raised:
            await within(CALLS[call](layer), 8)
        for part in (
            "'sharded'",
            f"127.0.0.1:{old_server.port}",
            "7.0",
            "SUBSCRIBE" if call in SUBSCRIBING else "SPUB",
        ):
            assert part in str(raised.value)
    assert bool(caplog.records) == (call in SUBSCRIBING)


async def test_a_group_on_a_server_that_is_too_old(
    make_layer: MakeLayer, old_server: Server, redis_server: Any
) -> None:
    """The channel is on a shard that can, its group on one that cannot."""
    layer = make_layer(hosts=[redis_server.url, old_server.url])
    channel = next(name for n in range(100) if layer.consistent_hash(name := f"{layer.prefix}{n}") == 0)
    group = next(
        name for n in range(100) if layer.consistent_hash(f"{layer.prefix}__group__{(name := f'room{n}')}") == 1
    )
    receiving = await started(layer.receive(channel))
    with redis.Redis.from_url(redis_server.url) as raw:
        await until(lambda: subscribers(raw, channel) == 1)
    with pytest.raises(ResponseError, match=rf"'sharded'.*127\.0\.0\.1:{old_server.port}"):
        await within(layer.group_add(group, channel), 8)
    await layer.send(channel, {"n": 1})
    assert await within(receiving) == {"n": 1}


async def test_many_at_once_cost_one_line(
    make_layer: MakeLayer, old_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    layer = make_layer(hosts=[old_server.url])
    outcomes = await within(asyncio.gather(*(layer.new_channel() for _ in range(200)), return_exceptions=True), 8)
    assert all(isinstance(outcome, ResponseError) and "'sharded'" in str(outcome) for outcome in outcomes)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("call", list(CALLS))
async def test_a_user_who_may_not(make_layer: MakeLayer, own_server: OwnServer, call: str) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        rules = ("on", ">s3cret", "~*", "&*", "+@all", "-ssubscribe", "-spublish")
        raw.execute_command("ACL", "SETUSER", "chan", *rules)
    layer = make_layer(hosts=[f"redis://chan:s3cret@127.0.0.1:{server.port}"])
    for _ in range(2):
        with pytest.raises(NoPermissionError) as raised:
            await within(CALLS[call](layer), 8)
        for part in ("'sharded'", f"127.0.0.1:{server.port}", "SSUBSCRIBE" if call in SUBSCRIBING else "SPUBLISH"):
            assert part in str(raised.value)
        assert "s3cret" not in str(raised.value)
