"""``group_send(..., exclude=[...])``: who is named there gets nothing, however the message goes to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.core.names import without
from tests.core.helpers import receive_many, within

MakeLayer = Callable[..., RedisChannelLayer]

KINDS: dict[str, dict[str, Any]] = {
    "msgpack": {},
    "json": {"serializer_format": "json"},
    "encrypted": {"symmetric_encryption_keys": ["secret"]},
}


async def members(*layers: RedisChannelLayer) -> dict[str, RedisChannelLayer]:
    """Two channels of each layer, and a general one of the last, all in the group."""
    channels = {await layer.new_channel(): layer for layer in layers for _ in range(2)} | {"general": layers[-1]}
    for channel, layer in channels.items():
        await layer.group_add("room", channel)
    return channels


async def see(channels: dict[str, RedisChannelLayer], sent: list[tuple[dict[str, Any], set[str]]]) -> None:
    """See that each channel has what is not sent past it, in order, and nothing else."""
    for channel, layer in channels.items():
        await layer.send(channel, {"last": True})
        expected = [message for message, excluded in sent if channel not in excluded] + [{"last": True}]
        assert await receive_many(layer, channel, len(expected)) == expected, channel


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
async def test_on_one_server(make_layer: MakeLayer, options: dict[str, Any]) -> None:
    """In two round trips, then in one, then in two again since others are under way."""
    one, two = make_layer(**options), make_layer(**options)
    channels = await members(one, two)
    names = list(channels)
    # All of one process, some of each, a general channel, nobody who is there, everybody.
    excludes: list[list[str]] = [names[:2], [names[0], names[2]], ["general"], ["stranger", "x!y"], [], names]
    sent = [({"n": n}, set(excludes[n % len(excludes)])) for n in range(14)]
    for message, excluded in sent:
        # The two turns are different ways to one's own layer and to another's.
        await one.group_send("room", message, exclude=[*excluded])
    await see(channels, sent)
    await within(asyncio.gather(*(one.group_send("room", message, exclude=iter(names)) for message, names in sent)))
    await see(channels, sent)


async def test_on_a_ring(make_layer: MakeLayer, shard_urls: list[str]) -> None:
    one, two = make_layer(hosts=shard_urls), make_layer(hosts=shard_urls)
    channels = await members(one, two)
    # What is sent to it alone goes to each shard in turn, and overtakes what was sent to the group.
    del channels["general"]
    names = list(channels)
    sent = [({"n": n}, set(names[n % 3 :: 2])) for n in range(6)]
    for message, excluded in sent:
        await one.group_send("room", message, exclude=excluded)
    await see(channels, sent)


async def test_many_at_once(make_layer: MakeLayer) -> None:
    layer = make_layer()
    channels = await members(layer)
    mine, other, general = channels
    sends: list[Any] = [
        ("room", {"n": 0}),
        ("room", {"n": 1}, [mine]),
        ("room", {"n": 2}, None),
        ("room", {"n": 3}, (name for name in (other, general))),
    ]
    await layer.group_send_many(sends)
    await see(channels, [({"n": 0}, set()), ({"n": 1}, {mine}), ({"n": 2}, set()), ({"n": 3}, {other, general})])


async def test_the_name_is_in_no_member(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """Nor is any word of this package: channels_redis delivers to the others alone."""
    layer = make_layer()
    await layer.group_add("room", "x.y!1")
    await layer.group_add("room", "x.y!2")
    for _ in range(2):
        await layer.group_send("room", {"type": "said"}, exclude=["x.y!1"])
    stored = raw.zrange(f"{prefix}x.y!", 0, -1)
    assert len(stored) == 2
    for member in stored:
        assert b"x.y!2" in member
        assert b"x.y!1" not in member
        assert b"exclude" not in member


@pytest.mark.parametrize(
    ("exclude", "text"),
    [
        ("x.y!1", "not str"),
        ("", "not str"),
        (b"x.y!1", "not bytes"),
        (5, "not int"),
        ([5], "hannel name"),
        (["no channel"], "hannel name"),
        (["x.y!1", None], "hannel name"),
        ([["x.y!1"]], "hannel name"),
    ],
)
async def test_what_are_no_names(make_layer: MakeLayer, exclude: Any, text: str) -> None:
    layer = make_layer()
    channels = await members(layer)
    with pytest.raises(TypeError, match=text):
        await layer.group_send("room", {"n": 1}, exclude=exclude)
    with pytest.raises(TypeError, match=text):
        await layer.group_send_many([("room", {"n": 2}), ("room", {"n": 3}, exclude)])
    with pytest.raises(ValueError, match="unpack"):
        await layer.group_send_many([("room", {"n": 2}), ("room", {"n": 3}, [], [])])  # type: ignore[list-item]
    await see(channels, [])


class Older(RedisChannelLayer):
    """A site's layer from before there was an `exclude`."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:  # type: ignore[override]
        await super().group_send(group, {**message, "seen": True})


async def test_an_override_that_does_not_know_of_it(make_layer: MakeLayer) -> None:
    layer = make_layer(Older)
    channels = await members(layer)
    await layer.group_send_many([("room", {"n": 1}), ("room", {"n": 2})])
    await see(channels, [({"n": 1, "seen": True}, set()), ({"n": 2, "seen": True}, set())])
    with pytest.raises(TypeError, match="exclude"):
        await layer.group_send_many([("room", {"n": 1}, ["x"])])


def test_without_leaves_the_lists_as_they_were() -> None:
    keys, channels = [b"a!", b"b!", b"c"], [["a!1", "a!2"], ["b!1"], ["c"]]
    assert without((keys, channels), frozenset({"a!2", "c"})) == ([b"a!", b"b!"], [["a!1"], ["b!1"]])
    assert (keys, channels) == ([b"a!", b"b!", b"c"], [["a!1", "a!2"], ["b!1"], ["c"]])
