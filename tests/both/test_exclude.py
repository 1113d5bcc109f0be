"""``group_send(..., exclude=[...])``: who is named there gets nothing, however the message goes to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.both.conftest import LAYERS, sharded_too
from tests.core.helpers import nothing_to_receive, receive_many, within

MakeLayer = Callable[..., Any]

CODECS: dict[str, dict[str, Any]] = {
    "msgpack": {},
    "json": {"serializer_format": "json"},
    "encrypted": {"symmetric_encryption_keys": ["secret"]},
}


async def members(kind: str, *layers: Any) -> dict[str, Any]:
    """Two channels of each layer, and on core a general one of the last, all in the group."""
    channels = {await layer.new_channel(): layer for layer in layers for _ in range(2)}
    if kind == "core":
        channels["general"] = layers[-1]
    for channel, layer in channels.items():
        await layer.group_add("room", channel)
    return channels


async def see(channels: dict[str, Any], sent: list[tuple[dict[str, Any], set[str]]]) -> None:
    """See that each channel has what is not sent past it, in order, and nothing else."""
    for channel, layer in channels.items():
        await layer.group_send("room", {"last": channel})
    last = [({"last": channel}, set[str]()) for channel in channels]
    for channel, layer in channels.items():
        expected = [message for message, excluded in [*sent, *last] if channel not in excluded]
        assert await receive_many(layer, channel, len(expected)) == expected, channel


@sharded_too
@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
async def test_on_one_server(make_layer: MakeLayer, kind: str, options: dict[str, Any]) -> None:
    """On core in two round trips, then in one, then in two again since others are under way."""
    one, two = make_layer(**options), make_layer(**options)
    channels = await members(kind, one, two)
    names = list(channels)
    # All of one process, some of each, the last one (on core a general channel), nobody who is there, everybody.
    excludes: list[list[str]] = [names[:2], [names[0], names[2]], names[-1:], ["stranger", "x!y"], [], names]
    sent = [({"n": n, "list": [{}]}, set(excludes[n % len(excludes)])) for n in range(14)]
    for message, excluded in sent:
        # The two turns are different ways to one's own layer and to another's.
        await one.group_send("room", message, exclude=[*excluded])
        assert set(message) == {"n", "list"}, "the sender's message was changed"
    await see(channels, sent)
    await within(asyncio.gather(*(one.group_send("room", message, exclude=iter(names)) for message, names in sent)))
    await see(channels, sent)
    assert one.stats()["undecodable"] == two.stats()["undecodable"] == 0


async def test_on_a_ring(make_layer: MakeLayer, kind: str, shard_urls: list[str]) -> None:
    one, two = make_layer(hosts=shard_urls), make_layer(hosts=shard_urls)
    channels = await members(kind, one, two)
    # A general channel's messages are on each shard in turn, and overtake each other.
    channels.pop("general", None)
    names = list(channels)
    sent = [({"n": n}, set(names[n % 3 :: 2])) for n in range(6)]
    for message, excluded in sent:
        await one.group_send("room", message, exclude=excluded)
    await see(channels, sent)


@sharded_too
async def test_many_at_once(make_layer: MakeLayer, kind: str) -> None:
    one, two = make_layer(), make_layer()
    channels = await members(kind, one, two)
    mine, *others = channels
    sends: list[Any] = [
        ("room", {"n": 0}),
        ("room", {"n": 1}, [mine]),
        ("room", {"n": 2}, None),
        ("room", {"n": 3}, (name for name in others)),
    ]
    await one.group_send_many(sends)
    await see(channels, [({"n": 0}, set()), ({"n": 1}, {mine}), ({"n": 2}, set()), ({"n": 3}, set(others))])


@pytest.mark.parametrize(
    ("exclude", "text"),
    [
        ("x.y!1", "not str"),
        ("", "not str"),
        (b"x.y!1", "not bytes"),
        (5, "not int"),
        ([5], "hannel name"),
        (["x.y!1", None], "hannel name"),
        ([["x.y!1"]], "hannel name"),
    ],
)
async def test_what_are_no_names(make_layer: MakeLayer, kind: str, exclude: Any, text: str) -> None:
    layer = make_layer()
    channels = await members(kind, layer)
    with pytest.raises(TypeError, match=text):
        await layer.group_send("room", {"n": 1}, exclude=exclude)
    with pytest.raises(TypeError, match=text):
        await layer.group_send_many([("room", {"n": 2}), ("room", {"n": 3}, exclude)])
    with pytest.raises(ValueError, match="unpack"):
        await layer.group_send_many([("room", {"n": 2}), ("room", {"n": 3}, [], [])])
    await see(channels, [])


async def test_an_override_that_does_not_know_of_it(make_layer: MakeLayer, kind: str) -> None:
    """A site's layer from before there was an `exclude`."""

    class Older(LAYERS[kind]):  # type: ignore[misc]
        async def group_send(self, group: str, message: dict[str, Any]) -> None:
            await super().group_send(group, {**message, "seen": True})

    layer = make_layer(Older)
    channels = await members(kind, layer)
    await layer.group_send_many([("room", {"n": 1}), ("room", {"n": 2})])
    with pytest.raises(TypeError, match="exclude"):
        await layer.group_send_many([("room", {"n": 1}, ["x"])])
    for channel in channels:
        assert await receive_many(layer, channel, 2) == [{"n": 1, "seen": True}, {"n": 2, "seen": True}]
        await nothing_to_receive(layer, channel)
