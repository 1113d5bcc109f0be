"""Groups: who belongs to one, what its members get, and whose a message is then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.helpers import nothing_to_receive, receive_many, started, within

MakeLayer = Callable[..., Any]


async def members(layer: Any, count: int, group: str = "room") -> list[str]:
    """New channels, all in one group."""
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels


async def test_every_member_in_every_process_gets_a_group_message(make_layer: MakeLayer, kind: str) -> None:
    layers = [make_layer() for _ in range(3)]
    channels = [(layer, await layer.new_channel(prefix)) for layer in layers for prefix in ("a", "a", "b")]
    if kind == "core":
        # On Pub/Sub nobody but a process' own new channels can be a member.
        channels.append((layers[0], "general"))
    for layer, channel in channels:
        await layer.group_add("room", channel)
    waiting = [await started(layer.receive(channel)) for layer, channel in channels[::2]]
    expected = {"type": "hello", "deep": [{"n": 1}]}
    await make_layer().group_send("room", {"type": "hello", "deep": [{"n": 1}]})
    assert await within(asyncio.gather(*waiting)) == [expected] * len(waiting)
    for layer, channel in channels[1::2]:
        assert await within(layer.receive(channel)) == expected
    for layer, channel in channels:
        await nothing_to_receive(layer, channel)


async def test_who_is_not_a_member_gets_nothing(make_layer: MakeLayer) -> None:
    layer = make_layer()
    [member, gone], [other] = await members(layer, 2), await members(layer, 1, "another")
    stranger = await layer.new_channel()
    await layer.group_discard("room", gone)
    await layer.group_send("room", {"n": 1})
    assert await within(layer.receive(member)) == {"n": 1}
    for channel in (member, gone, other, stranger):
        await nothing_to_receive(layer, channel)


async def test_groups_do_not_mix(make_layer: MakeLayer) -> None:
    layer = make_layer()
    [one], [two] = await members(layer, 1, "one"), await members(layer, 1, "two")
    in_both = await layer.new_channel()
    for group in ("one", "two"):
        await layer.group_add(group, in_both)
        await layer.group_send(group, {"to": group})
    assert await within(layer.receive(one)) == {"to": "one"}
    assert await within(layer.receive(two)) == {"to": "two"}
    assert await receive_many(layer, in_both, 2) == [{"to": "one"}, {"to": "two"}]
    for channel in (one, two, in_both):
        await nothing_to_receive(layer, channel)


async def test_added_twice_is_a_member_once(make_layer: MakeLayer) -> None:
    layer = make_layer()
    [channel] = await members(layer, 1)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    await nothing_to_receive(layer, channel)
    await layer.group_discard("room", channel)
    await layer.group_send("room", {"n": 2})
    await nothing_to_receive(layer, channel)


async def test_discarding_a_stranger_is_no_error(make_layer: MakeLayer) -> None:
    """What is in no group, or no channel of ours; and who is a member stays one."""
    layer = make_layer()
    [channel] = await members(layer, 1)
    for stranger in (await layer.new_channel(), "unknown"):
        await layer.group_discard("room", stranger)
    for name in (channel, "unknown"):
        await layer.group_discard("no-such-group", name)
    await layer.group_send("room", {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}


async def test_a_group_without_members_swallows_messages(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    await within(make_layer().group_send("nobody", {"n": 1}))
    assert list(raw.scan_iter(f"{prefix}*")) == []


@pytest.mark.parametrize("options", [{}, {"serializer_format": "json"}, {"symmetric_encryption_keys": ["s3cret"]}])
@pytest.mark.parametrize("sent", [{"text": "flat"}, {"text": "nested", "users": [{"name": "ada"}], "map": {"a": {}}}])
async def test_each_member_owns_its_message(make_layer: MakeLayer, options: dict[str, Any], sent: Any) -> None:
    layer = make_layer(**options)
    channels = await members(layer, 4)
    await layer.group_send("room", sent)
    for channel in channels:
        message = await within(layer.receive(channel))
        assert message == sent
        message["text"] = "mine"
        message["new"] = 1
        for user in message.get("users", ()):
            user["name"] = "me"
        message.get("map", {}).update(a=1)
    assert "new" not in sent


async def test_the_senders_message_stays_as_it_was(make_layer: MakeLayer) -> None:
    layer = make_layer()
    [channel, _] = await members(layer, 2)
    message = {"type": "x", "list": [1]}
    await layer.group_send("room", message)
    await layer.group_send("room", message, exclude=[channel])
    assert message == {"type": "x", "list": [1]}


async def test_a_group_of_hundreds_in_one_process(make_layer: MakeLayer) -> None:
    """On core they share one key, and the list of their names is longer than a message usually is."""
    layer = make_layer()
    channels = [await layer.new_channel() for _ in range(700)]
    await within(asyncio.gather(*(layer.group_add("room", channel) for channel in channels)))
    receiving = [await started(layer.receive(channel)) for channel in channels]
    await within(layer.group_send("room", {"n": 1}))
    assert await within(asyncio.gather(*receiving)) == [{"n": 1}] * 700


async def test_group_sends_at_once_all_arrive(make_layer: MakeLayer) -> None:
    layer = make_layer(capacity=1000)
    channels = [await layer.new_channel() for _ in range(5)]
    await within(asyncio.gather(*(layer.group_add(group, c) for group in ("g1", "g2") for c in channels)))
    await within(asyncio.gather(*(layer.group_send(f"g{1 + n % 2}", {"n": n}) for n in range(100))))
    for channel in channels:
        got = [message["n"] for message in await receive_many(layer, channel, 100)]
        assert sorted(got) == list(range(100))
