"""Groups whose members live in processes of both packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.interop.fleet import Fleet, Member, key_name
from tests.interop.options import OPTIONS, messages

LAST = {"type": "last"}


def join(fleet: Fleet, group: str, channels: dict[str, Member]) -> None:
    """Put channels into a group: on the core layer through a process of the other package, where that is possible."""
    for channel, member in channels.items():
        registrar = member
        if fleet.kind == "core":
            registrar = fleet.theirs[0] if member.is_ours else fleet.ours[0]
        registrar.group_add(group, channel)
    if fleet.kind == "pubsub":
        fleet.wait_for_subscriptions({fleet.group_channel(group): len({str(member) for member in channels.values()})})


def listeners(fleet: Fleet, each: int) -> dict[str, Member]:
    """So many new channels of each member, which listens on them."""
    channels = {channel: member for member in fleet.members for channel in member.new_channels(each)}
    for channel, member in channels.items():
        member.listen(channel)
    if fleet.kind == "pubsub":
        fleet.wait_for_subscriptions(dict.fromkeys(channels, 1))
    return channels


@pytest.mark.parametrize("kind", ["core", "pubsub"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_groups(kind: str, options: dict[str, Any], make_fleet: Callable[..., Fleet]) -> None:
    """Every member gets once what anybody sends, in each sender's order; who has left gets no more."""
    fleet, sent = make_fleet(kind, **options), messages(options)
    channels = listeners(fleet, 3)
    join(fleet, "room", channels)
    expected = [{**message, "by": str(sender)} for sender in fleet.members for message in sent]
    # One after the other: channels_redis takes no more than 100 messages for all channels of a process.
    for sender in fleet.members:
        own = [message for message in expected if message["by"] == str(sender)]
        assert sender.post("room", own, "group_send")() == {}
        for channel, member in channels.items():
            heard = member.heard(channel, expected.index(own[-1]) + 1)
            assert heard[-len(own) :] == own, f"{sender} to {member}"
    for channel, member in channels.items():
        assert member.heard(channel, 0) == expected, str(member)

    # Of each process one channel leaves: on the core layer through the other package.
    left = list(channels)[::3]
    for channel in left:
        member = channels[channel]
        if kind == "core":
            member = fleet.theirs[1] if member.is_ours else fleet.ours[1]
        member.group_discard("room", channel)
    later = [{"type": "later", "by": str(sender)} for sender in fleet.members]
    for sender, message in zip(fleet.members, later, strict=True):
        sender.group_send("room", message)
    for channel, member in channels.items():
        if channel not in left:
            assert member.heard(channel, len(expected) + 4) == expected + later, str(member)
    for channel, member in channels.items():
        # Behind all others, and never misfiled.
        fleet.ours[0].send(channel, LAST)
        mine = expected if channel in left else expected + later
        assert member.heard(channel, len(mine) + 1) == [*mine, LAST], str(member)


@pytest.mark.parametrize("kind", ["core", "pubsub"])
def test_processes_come_and_go(kind: str, make_fleet: Callable[..., Fleet], open_layer: Callable[..., Member]) -> None:
    """A site is moved process by process and back while it chats: who is there misses nothing, and nothing comes twice.

    A new layer stands for a new process: it has new names and new connections.
    """
    fleet = make_fleet(kind)
    channels = listeners(fleet, 1)
    join(fleet, "room", channels)
    expected: dict[str, list[dict[str, Any]]] = {channel: [] for channel in channels}
    for number, package in enumerate(("ours-1", "theirs-2", "ours-2", "theirs-1", "ours-1")):
        joined = open_layer(package, kind, **fleet.members[0].options)
        [channel] = joined.new_channels(1)
        joined.listen(channel)
        left = next(iter(channels))
        channels[left].group_discard("room", left)
        del channels[left]
        channels[channel] = joined
        expected[channel] = []
        if kind == "pubsub":
            fleet.wait_for_subscriptions({channel: 1})
            joined.group_add("room", channel)
            fleet.wait_for_subscriptions({fleet.group_channel("room"): 4})
        else:
            joined.group_add("room", channel)
        for sender in (fleet.ours[0], fleet.theirs[0], joined):
            message = {"by": str(sender), "number": number, "new": sender is joined}
            sender.group_send("room", message)
            for member in channels:
                expected[member].append(message)
        for member, layer in channels.items():
            assert layer.heard(member, len(expected[member])) == expected[member], str(layer)


def test_group_keys_are_the_same(make_fleet: Callable[..., Fleet]) -> None:
    """On the core layer both packages write the same membership, and either reads and removes the other's."""
    fleet = make_fleet("core")
    [raw] = fleet.raws
    key = f"{fleet.prefix}:group:room"
    for adder, remover in ((fleet.ours[0], fleet.theirs[0]), (fleet.theirs[0], fleet.ours[0])):
        [channel] = adder.new_channels(1)
        adder.group_add("room", channel)
        remover.group_add("room", channel)
        assert raw.zrange(key, 0, -1) == [channel.encode()]
        assert 86400 - 60 <= raw.ttl(key) <= 86400
        remover.group_send("room", {"type": "hello"})
        assert raw.zcard(fleet.prefix + key_name(channel)) == 1
        assert adder.collect(channel, 1) == [{"type": "hello"}]
        remover.group_discard("room", channel)
        assert not raw.exists(key)


@pytest.mark.parametrize("kind", ["core", "pubsub"])
@pytest.mark.parametrize("shards", [2, 5])
def test_groups_on_all_shards(kind: str, shards: int, make_fleet: Callable[..., Fleet]) -> None:
    """Both packages look for a group on the same shard, whatever it is called."""
    fleet = make_fleet(kind, shards)

    def is_on(shard: int, group: str) -> bool:
        # What is hashed on Pub/Sub has the prefix in it, and so is another name each time.
        return fleet.shard(group if kind == "core" else fleet.group_channel(group)) == shard

    names = [f"room.{number}" for number in range(1000)]
    groups = [group for shard in range(shards) for group in [name for name in names if is_on(shard, name)][:4]]
    assert len(groups) == 4 * shards
    channels = listeners(fleet, 1)
    for group in groups:
        join(fleet, group, channels)
    sent = []
    for group in groups:
        for sender in (fleet.ours[0], fleet.theirs[0]):
            sent.append({"by": str(sender), "to": group})
            sender.group_send(group, sent[-1])
    for channel, member in channels.items():
        heard = member.heard(channel, len(sent))
        # Of two shards either may be first.
        assert sorted(heard, key=str) == sorted(sent, key=str), str(member)


@pytest.mark.parametrize("kind", ["core", "pubsub"])
def test_whom_a_message_excludes(kind: str, make_fleet: Callable[..., Fleet]) -> None:
    """On core nobody who is excluded gets it; on Pub/Sub channels_redis does not know of that, and its members see."""
    fleet = make_fleet(kind)
    channels = listeners(fleet, 2)
    join(fleet, "room", channels)
    excluded = sorted(list(channels)[::2])
    sender = fleet.ours[0]
    sender.call("group_send_many", [["room", {"n": 1}, excluded]])
    sender.group_send("room", LAST)
    for channel, member in channels.items():
        if kind == "pubsub" and not member.is_ours:
            expected = [{"n": 1, "__exclude__": excluded}, LAST]
        else:
            expected = [LAST] if channel in excluded else [{"n": 1}, LAST]
        assert member.heard(channel, len(expected)) == expected, str(member)
