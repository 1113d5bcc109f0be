"""Sending to groups with a history: what is recorded, what is published, in which order, and who is refused."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from typing import Any

import msgpack
import pytest
import redis
from asgiref.sync import async_to_sync
from redis.exceptions import ResponseError

from channels_redis_fast.history.positions import WIDTH, history_key
from channels_redis_fast.pubsub import RedisPubSubChannelLayer, RedisPubSubLoopLayer
from tests.conftest import hosts_on
from tests.core.helpers import nothing_to_receive, receive_many, until, within
from tests.history.pubsub import (
    CODECS,
    FIELD,
    HISTORY,
    MakeLayer,
    codec,
    every_codec,
    make_layer,
    member,
    sharded,
)
from tests.pubsub.helpers import both_kinds, listening, payload

__all__ = ["codec", "make_layer", "sharded"]


def stream_of(layer: RedisPubSubChannelLayer, group: str) -> bytes:
    return history_key(layer.prefix.encode(), f"{layer.prefix}__group__{group}".encode())


@both_kinds
@every_codec
async def test_what_is_received_is_what_is_kept(make_layer: MakeLayer) -> None:
    """Of every size at which a map's header grows; the position is the last entry."""
    layer, peer = make_layer(), make_layer()
    channel = await member(layer, "room")
    sizes = [0, 1, 13, 14, 15, 16, 17, 65_533, 65_534, 65_535, 65_536]
    sent = [{str(n): n for n in range(size)} for size in sizes]
    for message in sent:
        await peer.group_send("room", message)
    got = await receive_many(layer, channel, len(sent))
    kept = await layer.group_history("room")
    assert got == kept.messages
    assert [list(message)[-1] for message in got] == [FIELD] * len(sent)
    positions = [message.pop(FIELD) for message in got]
    assert got == sent
    assert positions == sorted(positions)
    assert {len(position) for position in positions} == {WIDTH}
    assert (kept.position, kept.complete) == (positions[-1], True)
    assert peer.stats()["recorded"] == peer.stats()["group_sends"] == len(sent)


@every_codec
async def test_a_position_of_another_message_is_removed(make_layer: MakeLayer) -> None:
    """Consumers forward what they have received."""
    layer = make_layer()
    channel = await member(layer, "room", "lobby")
    old = {"n": 1, FIELD: "0" * WIDTH, "m": 2}
    await layer.send(channel, old)
    await layer.send_many([(channel, old)])
    await layer.group_send("lobby", old)
    await layer.group_send_many([("lobby", old)])
    await layer.group_send("room", old)
    await layer.group_send_many([("room", old)])
    got = await receive_many(layer, channel, 6)
    assert got[:4] == [{"n": 1, "m": 2}] * 4
    assert got[4:] == (await layer.group_history("room")).messages
    assert [message[FIELD] != old[FIELD] for message in got[4:]] == [True] * 2
    assert old == {"n": 1, FIELD: "0" * WIDTH, "m": 2}


async def test_without_the_option_it_is_an_ordinary_key(make_layer: MakeLayer, raw: Any) -> None:
    layer = make_layer(history=None)
    channel = await member(layer, "room")
    message = {"n": 1, FIELD: "mine"}
    await layer.send(channel, message)
    await layer.group_send("room", message)
    assert await receive_many(layer, channel, 2) == [message] * 2
    assert not raw.exists(stream_of(layer, "room"))


@every_codec
async def test_only_a_dict_has_a_position(make_layer: MakeLayer) -> None:
    layer = make_layer()
    channel = await member(layer, "room", "lobby")
    for message in (["no", "dict"], "text", 1, None):
        with pytest.raises(TypeError, match="room"):
            await layer.group_send("room", message)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="room"):
            await layer.group_send_many([("lobby", {}), ("room", message)])  # type: ignore[list-item]
    await layer.group_send("lobby", ["no", "dict"])  # type: ignore[arg-type]
    assert await within(layer.receive(channel)) == ["no", "dict"]
    await nothing_to_receive(layer, channel)
    assert (await layer.group_history("room")).messages == []


@both_kinds
@every_codec
async def test_nothing_overtakes_in_one_tick(make_layer: MakeLayer, prefix: str) -> None:
    """Of what goes to one server: messages for a channel, for a group, and for one with a history."""
    # All in one slot, on a cluster.
    layer = make_layer(prefix=f"{{{prefix}}}")
    channel = await member(layer, "room1", "room2", "lobby")
    sends: list[Any] = []
    for n in range(400):
        group = ("room1", "lobby", "room2", "", "lobby", "room1", "room1", "")[n % 8]
        sends.append(layer.group_send(group, {"n": n}) if group else layer.send(channel, {"n": n}))
    await within(asyncio.gather(*sends))
    got = await receive_many(layer, channel, 400)
    assert [message["n"] for message in got] == list(range(400))


async def test_groups_without_a_history_are_published_as_ever(make_layer: MakeLayer, raw: Any) -> None:
    layer = make_layer()
    if layer.sharded:
        pytest.skip("a plain subscriber hears nothing on a cluster")
    with listening(raw, f"{layer.prefix}__group__lobby", f"{layer.prefix}__group__room") as pubsub:
        await layer.group_send("lobby", {"n": 1})
        assert payload(pubsub) == msgpack.packb({"n": 1})
        await layer.group_send("room", {"n": 1})
        message = msgpack.unpackb(payload(pubsub))
    assert message == {"n": 1, FIELD: (await layer.group_history("room")).position}


@every_codec
async def test_a_channels_redis_peer_gets_one_key_more(make_layer: MakeLayer, raw: Any, codec: str) -> None:
    """What is published is what a serializer of channels_redis reads."""
    layer = make_layer()
    if layer.sharded:
        pytest.skip("a plain subscriber hears nothing on a cluster")
    with listening(raw, f"{layer.prefix}__group__room") as pubsub:
        await layer.group_send("room", {"type": "chat", "text": "hello"})
        body = payload(pubsub)
    [kept] = (await layer.group_history("room")).messages
    if codec == "json":
        assert json.loads(body) == kept
    else:
        assert (b"hello" in body) == (codec == "msgpack")
        assert layer.deserialize(body) == kept
    assert kept == {"type": "chat", "text": "hello", FIELD: kept[FIELD]}


@pytest.mark.single_server("the hub has connections of its own")
@every_codec
async def test_synchronous_code_records_too(make_layer: MakeLayer) -> None:
    layer = make_layer(sync_hub="auto")
    channel = await member(layer, "room")

    def send() -> None:
        layer.sync.group_send("room", {"n": 0, FIELD: "old"})
        async_to_sync(layer.group_send)("room", {"n": 1})
        layer.sync.group_send_many([("room", {"n": 2}), ("room", {"n": 3})])

    await asyncio.to_thread(send)
    got = await receive_many(layer, channel, 4)
    assert [message["n"] for message in got] == [0, 1, 2, 3]
    assert got == (await layer.group_history("room")).messages


# Positions that are proposed.


@pytest.mark.parametrize("codec", ["encrypted"])
@pytest.mark.parametrize("processes", [2, 50])
async def test_fifty_encrypted_senders(make_layer: MakeLayer, processes: int) -> None:
    """In several processes: each one's messages stay in order, however often they are overtaken."""
    layer, peers = make_layer(), [make_layer() for _ in range(processes)]
    channel = await member(layer, "room")

    async def send(number: int) -> None:
        for n in range(20):
            await peers[number % processes].group_send("room", {"sender": number, "n": n})

    await within(asyncio.gather(*(send(number) for number in range(50))))
    got = await receive_many(layer, channel, 1000)
    for number in range(50):
        assert [message["n"] for message in got if message["sender"] == number] == list(range(20))
    assert got == (await layer.group_history("room")).messages


@pytest.mark.single_server("it writes an entry with a client of one server")
@pytest.mark.parametrize("codec", ["encrypted", "json"])
async def test_what_is_refused_stays_in_order(make_layer: MakeLayer, raw: Any) -> None:
    """The first of many that leave together is refused, and those behind it wait for it."""
    layer = make_layer()
    channel = await member(layer, "room")
    ahead = int(raw.time()[0] * 1000) + 60_000
    raw.xadd(stream_of(layer, "room"), {"h": "0 - 0 0"}, f"{ahead}-5")
    await within(asyncio.gather(*(layer.group_send("room", {"n": n}) for n in range(100))))
    got = await receive_many(layer, channel, 100)
    assert [message["n"] for message in got] == list(range(100))
    assert all(message[FIELD] > str(ahead) for message in got)
    assert got == (await layer.group_history("room")).messages[-100:]


@pytest.mark.parametrize("codec", ["encrypted", "json"])
async def test_overtaken_for_ever(make_layer: MakeLayer, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises, naming the group; others go on."""
    layer = make_layer()
    channel = await member(layer, "room")
    proposer = next(iter(layer._loops.values())).recorder.proposer
    monkeypatch.setattr(proposer, "propose", lambda key, server: (1, 1))
    with pytest.raises(ResponseError, match=r"group room was not sent: 5 positions"):
        await within(layer.group_send("room", {"n": 1}))
    monkeypatch.undo()
    await layer.group_send("room", {"n": 2})
    assert (await within(layer.receive(channel)))["n"] == 2


@every_codec
async def test_one_that_cannot_be_packed_fails_alone(make_layer: MakeLayer) -> None:
    layer = make_layer()
    channel = await member(layer, "room", "lobby")
    sends = [layer.group_send(("room", "lobby")[n % 2], {"n": n}) for n in range(6)]
    sends[3:3] = [layer.group_send("room", {"n": object()})]
    outcomes = await within(asyncio.gather(*sends, return_exceptions=True))
    failed = [outcome for outcome in outcomes if outcome is not None]
    assert [type(error) for error in failed] == [TypeError]
    assert "room" in str(failed[0])
    got = await receive_many(layer, channel, 6)
    assert sorted(message["n"] for message in got) == list(range(6))


# What a server refuses.


@every_codec
async def test_a_server_without_scripts(make_layer: MakeLayer, own_server: Any) -> None:
    """Groups without a history go on; the error names what is missing."""
    server = own_server("--rename-command", "EVAL", "", "--rename-command", "EVALSHA", "")
    layer = make_layer(hosts=[server.url])
    channel = await member(layer, "room", "lobby")
    with pytest.raises(ResponseError, match="option 'history'"):
        await within(layer.group_send("room", {}))
    await layer.group_send("lobby", {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    assert layer.stats()["recorded"] == 0


@every_codec
async def test_a_channel_that_is_forbidden(make_layer: MakeLayer, own_server: Any) -> None:
    server = own_server()

    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL SETUSER default resetchannels &nothing")
    layer = make_layer(hosts=[server.url])
    with pytest.raises(ResponseError, match=r"ermission|publish to the channel"):
        await within(layer.group_send("room", {}))


async def test_the_serializer_of_another_layer(make_layer: MakeLayer) -> None:
    """`RedisPubSubLoopLayer` has messages packed by the layer that it is given, also those that it keeps."""

    class Other:
        def serialize(self, message: dict[str, Any]) -> bytes:
            return b"other" + json.dumps(message).encode()

        def deserialize(self, packed: bytes) -> Any:
            assert packed.startswith(b"other")
            return json.loads(packed[5:])

    layer = make_layer(kind=RedisPubSubLoopLayer, channel_layer=Other())
    channel = await member(layer, "room")
    await layer.group_send("room", {"n": 1})
    assert [await within(layer.receive(channel))] == (await layer.group_history("room")).messages


@every_codec
async def test_nothing_keeps_a_layer(redis_server: Any, prefix: str, codec: str) -> None:
    """What was sent and received last does not hold the layer that did."""
    hosts = hosts_on(redis_server)
    layer = RedisPubSubChannelLayer(hosts=hosts, prefix=prefix, sync_hub="never", history=HISTORY, **CODECS[codec])
    channel = await member(layer, "room")
    for n in range(3):
        await layer.group_send("room", {"n": n})
        assert (await within(layer.receive(channel)))["n"] == n
    [first, *_] = (await layer.group_history("room")).messages
    await layer.group_resume("room", channel, first[FIELD])
    state = next(iter(layer._loops.values()))
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
    await until(lambda: not any(connection.is_open for connection in state.connections()))
