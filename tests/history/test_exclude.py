"""Messages that exclude channels, in groups with a history: neither what is delivered nor what is read has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import Server
from tests.clusters import Cluster
from tests.core.helpers import named, receive_many, until, within
from tests.history.core import CODECS, FIELD, HISTORY, MakeCore, all_of, recorded
from tests.history.pubsub import DOWN, UP
from tests.pubsub.helpers import subscribers

Make = Callable[..., Any]

EXCLUDED = "__exclude__"

Sent = list[tuple[int, set[str]]]

#: Those that core and Pub/Sub have.
SHARED_CODECS = {name: CODECS[name] for name in ("msgpack", "json", "encrypted", "custom")}


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    assert not any(EXCLUDED in message or FIELD not in message for message in messages)
    return [message["n"] for message in messages]


def meant_for(channel: str, sent: Sent) -> list[int]:
    return [n for n, excluded in sent if channel not in excluded]


async def member(layer: Any) -> str:
    channel: str = await layer.new_channel()
    await layer.group_add("room", channel)
    return channel


@pytest.mark.parametrize("options", SHARED_CODECS.values(), ids=SHARED_CODECS)
async def test_delivered_and_read(make: Make, options: dict[str, Any]) -> None:
    """One by one, all at once, and with positions that rise for everybody."""
    one, two = make(history=HISTORY, **options), make(history=HISTORY, **options)
    channels = {await member(layer): layer for layer in (one, one, two)}
    names = list(channels)
    excludes: list[list[str]] = [names[:1], names[:2], ["stranger"], [], names[1:], names]
    start = (await one.group_history("room")).position
    sent: Sent = [(n, set(excludes[n % len(excludes)])) for n in range(24)]
    for n, excluded in sent[:12]:
        await one.group_send("room", {"n": n, "text": "x" * n}, exclude=[*excluded])
    await within(
        asyncio.gather(*(one.group_send("room", {"n": n}, exclude=excluded or None) for n, excluded in sent[12:]))
    )
    for channel, layer in channels.items():
        expected = meant_for(channel, sent)
        received = await receive_many(layer, channel, len(expected))
        assert numbers(received) == expected, channel
        assert received == sorted(received, key=lambda message: message[FIELD])
        # The one who sent it comes back on the same channel, as after an outage.
        history = await layer.group_resume("room", channel, start)
        assert (history.messages, history.complete) == (received, True)
    whole = await two.group_history("room", start)
    assert (numbers(whole.messages), whole.complete) == ([n for n, _ in sent], True)
    # Who comes back on another channel is somebody else.
    another = await two.group_resume("room", await two.new_channel(), start)
    assert another == whole


async def test_on_a_ring(make_core: MakeCore, shard_urls: list[str]) -> None:
    """Recorded first, delivered then."""
    layer = make_core(hosts=shard_urls, history=HISTORY, capacity=1000)
    other = await member(make_core(hosts=shard_urls, history=HISTORY))
    mine = [await member(layer) for _ in range(3)]
    sent: Sent = [(0, set(mine[:1])), (1, set()), (2, {other}), (3, {*mine, other})]
    await within(asyncio.gather(*(layer.group_send("room", {"n": n}, exclude=names) for n, names in sent)))
    for channel in mine:
        assert numbers(await all_of(layer, channel)) == meant_for(channel, sent)
    history = await layer.group_resume("room", mine[0], None)
    assert numbers(history.messages) == [1, 2]


async def test_on_a_cluster(make: Make, cluster: Cluster) -> None:
    layer = make(hosts=[cluster.host], history=HISTORY)
    channels = [await member(layer) for _ in range(3)]
    start = (await layer.group_history("room")).position
    sent: Sent = [(0, set(channels[:1])), (1, set()), (2, set(channels[1:]))]
    for n, names in sent:
        await layer.group_send("room", {"n": n}, exclude=names)
    for channel in channels:
        expected = meant_for(channel, sent)
        assert numbers(await receive_many(layer, channel, len(expected))) == expected
        assert numbers((await layer.group_resume("room", channel, start)).messages) == expected


async def test_what_core_delivers_does_not_tell(make_core: MakeCore, raw: Any, prefix: str) -> None:
    """The names are in the history alone, whatever length the header of the message has."""
    layer = make_core(history=HISTORY)
    for channel in ("x.y!1", "x.y!2"):
        await layer.group_add("room", channel)
    messages = [{f"k{n}": n for n in range(size)} for size in (0, 1, 13, 14, 15, 16)]
    for message in messages:
        await layer.group_send("room", message, exclude=["x.y!1"])
    assert len(recorded(raw, layer, "room")) == len(messages)
    stored = raw.zrange(f"{prefix}x.y!", 0, -1)
    delivered = [layer._codec.decode(one) for one in stored]
    assert [address for address, _ in delivered] == [["x.y!2"]] * len(messages)
    assert [{**message, FIELD: got[FIELD]} for message, (_, got) in zip(messages, delivered, strict=True)] == [
        got for _, got in delivered
    ]
    assert not any(b"exclude" in one or b"x.y!1" in one for one in stored)


async def test_a_key_that_the_user_may_not_write(make_core: MakeCore, own_server: Callable[..., Server]) -> None:
    """One call for all is refused, and the others get it in another way, whomever it excludes."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.acl_setuser("chan", True, passwords=["+s"], keys=["asgi:*", "asgix.*"], channels=["*"], commands=["+@all"])
    layer = make_core(hosts=[f"redis://chan:s@127.0.0.1:{server.port}"], history=HISTORY, prefix="asgi")
    for channel in ("x.y!1", "x.y!2", "z.y!1"):
        await layer.group_add("room", channel)
    with redis.Redis.from_url(server.url) as raw:
        for n in range(3):
            with pytest.raises(redis.exceptions.NoPermissionError):
                await layer.group_send("room", {"n": n}, exclude=["x.y!1"])
            await layer.group_send("room", {"n": n}, exclude=["z.y!1"])
        assert raw.zcard("asgix.y!") == 6
        assert raw.zcard("asgiz.y!") == 0


@pytest.mark.single_server("it kills connections by their name")
async def test_an_outage_of_pubsub(make_pubsub: Make, own_server: Callable[..., Server], prefix: str) -> None:
    """What was missed goes to whom it was meant for, and so does what comes meanwhile."""
    server = own_server()
    words = {"on_disconnect": "down", "on_reconnect": "up", "history": HISTORY}
    layer = make_pubsub(hosts=[named(server.url, prefix)], **words)
    peer = make_pubsub(hosts=[server.url], history=HISTORY)
    channels = [await member(layer) for _ in range(2)]
    sent: Sent = [(n, set(channels[n % 3 : n % 3 + 1])) for n in range(12)]
    with redis.Redis.from_url(server.url) as raw:
        group_channel = f"{layer.prefix}__group__room"
        for client in raw.client_list():
            if client["name"] == prefix and int(client["sub"]):
                raw.client_kill_filter(_id=client["id"])
        assert subscribers(raw, group_channel) == 0
        for n, excluded in sent:
            await peer.group_send("room", {"n": n}, exclude=excluded)
        await until(lambda: subscribers(raw, group_channel) == 1)
    for channel in channels:
        expected = meant_for(channel, sent)
        received = await receive_many(layer, channel, len(expected) + 2)
        assert DOWN in received
        assert UP in received
        assert numbers([message for message in received if "n" in message]) == expected
