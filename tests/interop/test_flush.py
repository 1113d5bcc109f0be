"""One process flushes while the others run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.interop.fleet import Fleet, Member

by_each_package = pytest.mark.parametrize("package", ["ours", "theirs"])


def listening(fleet: Fleet, members: list[Member]) -> dict[str, Member]:
    """Two channels of each member, in a group, on which it listens."""
    channels = {channel: member for member in members for channel in member.new_channels(2)}
    for channel, member in channels.items():
        member.listen(channel)
        if fleet.kind == "pubsub":
            fleet.wait_for_subscriptions({channel: 1})
        member.group_add("room", channel)
    if fleet.kind == "pubsub":
        fleet.wait_for_subscriptions({fleet.group_channel("room"): len(members)})
    return channels


def post_by_all(fleet: Fleet, to: str, message: dict[str, Any], name: str = "send") -> list[dict[str, Any]]:
    """Every member sends; return what was sent."""
    sent = [{**message, "by": str(sender)} for sender in fleet.members]
    for sender, its in zip(fleet.members, sent, strict=True):
        sender.call(name, to, its)
    return sent


@pytest.mark.parametrize("shards", [1, 2])
@by_each_package
def test_core(package: str, shards: int, make_fleet: Callable[..., Fleet]) -> None:
    """Nothing that waited in Redis arrives afterwards, groups are empty, and who was receiving goes on receiving."""
    fleet = make_fleet("core", shards)
    flushing = fleet.ours[1] if package == "ours" else fleet.theirs[1]
    running = [member for member in fleet.members if member is not flushing]
    channels = listening(fleet, running)
    waiting = {"jobs.0": fleet.ours[0], "jobs.1": fleet.theirs[0], flushing.new_channels(1)[0]: flushing}
    for channel in waiting:
        post_by_all(fleet, channel, {"type": "before"})
    flushing.flush()
    for raw in fleet.raws:
        # Calls that wake the receivers of ours are no data.
        assert [key for key in raw.scan_iter(f"{fleet.prefix}*") if b":wake:" not in key] == []

    post_by_all(fleet, "room", {"type": "to nobody"}, "group_send")
    expected = {channel: post_by_all(fleet, channel, {"type": "after"}) for channel in channels}
    for channel, member in channels.items():
        if not member.is_ours and fleet.is_misfiled(channel):
            expected[channel] = [message for message in expected[channel] if message["by"].startswith("ours")]
        heard = member.heard(channel, len(expected[channel]))
        # On two shards what is misfiled may overtake.
        assert sorted(heard, key=str) == sorted(expected[channel], key=str), str(member)
    back = list(channels)[::2]
    for channel in back:
        channels[channel].group_add("room", channel)
    last = post_by_all(fleet, "room", {"type": "to the group"}, "group_send")
    for channel in back:
        heard = channels[channel].heard(channel, len(expected[channel]) + len(last))
        assert heard[len(expected[channel]) :] == last, str(channels[channel])
    for channel, member in waiting.items():
        sender = fleet.ours[0]
        # Of each shard once: a receiver of channels_redis waits on one of them.
        sent = sender.numbered(shards)
        assert sender.post(channel, sent)() == {}
        heard = member.collect(channel, len(sent))
        assert sorted(heard, key=str) == sent, str(member)


@by_each_package
def test_core_under_load(package: str, make_fleet: Callable[..., Fleet]) -> None:
    """No send or receive fails of it, what is sent afterwards arrives, and nothing comes twice or out of order."""
    fleet = make_fleet("core", capacity=10_000)
    flushing = fleet.ours[1] if package == "ours" else fleet.theirs[1]
    # The one who flushes does not receive: of its own receives channels_redis ends some.
    receivers = [member for member in fleet.members if member is not flushing]
    channels = {}
    for member in receivers:
        [channels[member]] = member.new_channels(1)
        member.listen(channels[member])
    senders = (fleet.ours[0], fleet.theirs[0])
    during, after = 300, 30
    numbered = {sender: sender.numbered(during + after) for sender in senders}
    posts = [sender.post(channel, numbered[sender][:during]) for sender in senders for channel in channels.values()]
    for member, channel in channels.items():
        member.heard(channel, 50)
    flushing.flush()
    assert [post() for post in posts] == [{}] * len(posts)
    posts = [sender.post(channel, numbered[sender][during:]) for sender in senders for channel in channels.values()]
    assert [post() for post in posts] == [{}] * len(posts)
    last = {"type": "last"}
    for member, channel in channels.items():
        fleet.ours[0].send(channel, last)
        count = 1
        while (heard := member.heard(channel, count))[-1] != last:
            count = len(heard) + 1
        for sender in senders:
            numbers = [message["number"] for message in heard if message.get("by") == str(sender)]
            assert numbers == sorted(set(numbers)), f"{sender} to {member}"
            assert numbers[-after:] == list(range(during, during + after)), f"{sender} to {member}"


@pytest.mark.parametrize("shards", [1, 2])
@by_each_package
def test_pubsub(package: str, shards: int, make_fleet: Callable[..., Fleet]) -> None:
    """All others keep their channels and groups. Who has flushed can start again; a receive of ours just goes on."""
    fleet = make_fleet("pubsub", shards)
    flushing = fleet.ours[0] if package == "ours" else fleet.theirs[0]
    channels = listening(fleet, fleet.members)
    flushing.flush()
    others = {channel: member for channel, member in channels.items() if member is not flushing}
    fleet.wait_for_subscriptions({fleet.group_channel("room"): 3})
    expected = post_by_all(fleet, "room", {"type": "to the group"}, "group_send")
    for channel, member in others.items():
        assert member.heard(channel, len(expected)) == expected, str(member)

    [channel] = flushing.new_channels(1)
    flushing.listen(channel)
    fleet.wait_for_subscriptions({channel: 1})
    flushing.group_add("room", channel)
    fleet.wait_for_subscriptions({fleet.group_channel("room"): 4})
    others[channel] = flushing
    again = post_by_all(fleet, "room", {"type": "to the group again"}, "group_send")
    for channel, member in others.items():
        mine = again if member is flushing else [*expected, *again]
        assert member.heard(channel, len(mine)) == mine, str(member)
    if flushing.is_ours:
        own = [channel for channel, member in channels.items() if member is flushing]
        fleet.wait_for_subscriptions(dict.fromkeys(own, 1))
        for channel in own:
            sent = post_by_all(fleet, channel, {"type": "to the channel"})
            assert flushing.heard(channel, len(sent)) == sent
