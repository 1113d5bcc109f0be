"""Capacity and expiry on the core layer, as processes of both packages see them; and that Pub/Sub has no such thing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.interop.fleet import Fleet, Member, key_name, until
from tests.interop.options import NEW_KEY

#: In whose process a channel is that nobody receives on.
OWNERS = ["ours", "theirs", "nobody"]

#: Seconds back in time: far more than any expiry here.
LONG_AGO = 10 * 86400

over_all_pairs = pytest.mark.parametrize(
    ("first", "second"), [("ours", "theirs"), ("theirs", "ours"), ("ours", "ours"), ("theirs", "theirs")]
)


def one_of(fleet: Fleet, package: str) -> Member:
    """The second process of a package: no test lets it receive."""
    return fleet.ours[1] if package == "ours" else fleet.theirs[1]


def a_channel(fleet: Fleet, owner: str, prefix: str = "specific") -> tuple[Member, str]:
    """A channel and who can receive on it. Nobody does yet, so that messages wait in Redis."""
    if owner == "nobody":
        return fleet.theirs[0], f"{prefix}.jobs"
    member = fleet.ours[0] if owner == "ours" else fleet.theirs[0]
    [channel] = member.new_channels(1, prefix)
    return member, channel


def refused(member: Member, channel: str) -> bool:
    """Whether a send to the channel raises ChannelFull."""
    errors = member.post(channel, [{"by": str(member), "number": "too many"}])()
    assert errors in ({}, {"ChannelFull": 1})
    return bool(errors)


def make_old(fleet: Fleet, key: str) -> None:
    """Let what is in a sorted set be from long ago."""
    [raw] = fleet.raws
    members = raw.zrange(key, 0, -1, withscores=True)
    assert members
    raw.zadd(key, {member: score - LONG_AGO for member, score in members})


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("option", ["capacity", "channel_capacity"])
@pytest.mark.parametrize("keys", [None, [NEW_KEY]], ids=["plain", "encrypted"])
def test_capacity(owner: str, option: str, keys: list[str] | None, make_fleet: Callable[..., Fleet]) -> None:
    """What either has sent counts for both: a channel is full for both, until one of them receives from it."""
    capacity = {"capacity": 4} if option == "capacity" else {"capacity": 9, "channel_capacity": {"tight.*": 4}}
    fleet = make_fleet("core", **capacity, symmetric_encryption_keys=keys)
    [raw] = fleet.raws
    receiver, channel = a_channel(fleet, owner, "tight")
    ours, theirs = one_of(fleet, "ours"), one_of(fleet, "theirs")
    sent = []
    for number, sender in enumerate((ours, theirs, theirs, ours)):
        sent.append({"by": str(sender), "number": number})
        sender.send(channel, sent[-1])
    assert refused(ours, channel)
    assert refused(theirs, channel)
    key = fleet.prefix + key_name(channel)
    assert raw.zcard(key) == 4
    if owner == "nobody":
        for number, (sender, other) in enumerate(((ours, theirs), (theirs, ours)), 4):
            assert fleet.ours[0].collect(channel, 1) + fleet.theirs[0].collect(channel, 1) == sent[:2]
            for _ in range(2):
                sent.append({"by": str(sender), "number": number})
                sender.send(channel, sent[-1])
            assert refused(sender, channel)
            assert refused(other, channel)
            del sent[:2]
    assert receiver.collect(channel, 4) == sent
    assert ours.call("stats")["channel_full"] == (3 if owner == "nobody" else 1)


@pytest.mark.parametrize("owner", OWNERS)
def test_groups_skip_full_channels(owner: str, make_fleet: Callable[..., Fleet]) -> None:
    """A channel that others have filled is skipped by both, which log the same line; the group's others get theirs."""
    fleet = make_fleet("core", capacity=9, channel_capacity={"tight*": 2})
    ours, theirs = one_of(fleet, "ours"), one_of(fleet, "theirs")
    receiver, full = a_channel(fleet, owner, "tight")
    member, roomy = a_channel(fleet, "ours" if owner == "theirs" else "theirs", "roomy")
    for channel in (full, roomy):
        ours.group_add("room", channel)
    ours.group_send("room", {"number": 0})
    theirs.group_send("room", {"number": 1})
    for sender in (ours, theirs):
        sender.logged()
        sender.group_send("room", {"number": 2, "by": str(sender)})
        assert sender.logged() == ["1 of 2 channels over capacity in group room"]
        assert refused(sender, full)
    everything = [{"number": 0}, {"number": 1}, {"number": 2, "by": str(ours)}, {"number": 2, "by": str(theirs)}]
    assert receiver.collect(full, 2) == everything[:2]
    assert member.collect(roomy, 4) == everything
    assert ours.call("stats")["over_capacity"] == 1


@pytest.mark.parametrize("owner", OWNERS)
@over_all_pairs
def test_what_is_too_old_is_trimmed_by_the_next_sender(
    first: str, second: str, owner: str, make_fleet: Callable[..., Fleet]
) -> None:
    """Whoever sends next, to the channel or to a group with it, removes it: it neither arrives nor takes room."""
    fleet = make_fleet("core", expiry=30, capacity=1)
    [raw] = fleet.raws
    early, late = one_of(fleet, first), one_of(fleet, second)
    receiver, channel = a_channel(fleet, owner)
    key = fleet.prefix + key_name(channel)
    late.group_add("room", channel)
    early.send(channel, {"number": 0})
    assert 20 <= raw.ttl(key) <= 30
    make_old(fleet, key)
    late.send(channel, {"number": 1})
    assert raw.zcard(key) == 1
    make_old(fleet, key)
    early.group_send("room", {"number": 2})
    assert raw.zcard(key) == 1
    make_old(fleet, key)
    late.group_send("room", {"number": 3})
    assert 20 <= raw.ttl(key) <= 30
    assert receiver.collect(channel, 1) == [{"number": 3}]


@over_all_pairs
def test_old_members_leave_their_group(first: str, second: str, make_fleet: Callable[..., Fleet]) -> None:
    """Who was added longer than `group_expiry` ago gets nothing, whichever package added it and whichever sends."""
    fleet = make_fleet("core", group_expiry=1000)
    [raw] = fleet.raws
    early, late = one_of(fleet, first), one_of(fleet, second)
    key = f"{fleet.prefix}:group:room"
    _, old = a_channel(fleet, "ours")
    receiver, fresh = a_channel(fleet, "theirs")
    early.group_add("room", old)
    assert 900 <= raw.ttl(key) <= 1000
    make_old(fleet, key)
    early.group_add("room", fresh)
    late.group_send("room", {"type": "hello"})
    assert raw.zrange(key, 0, -1) == [fresh.encode()]
    assert not raw.exists(fleet.prefix + key_name(old))
    assert receiver.collect(fresh, 1) == [{"type": "hello"}]


def test_messages_expire(make_fleet: Callable[..., Fleet]) -> None:
    """After `expiry` seconds without a receiver a channel is empty for both; what comes then is the first there is."""
    fleet = make_fleet("core", expiry=3)
    [raw] = fleet.raws
    channels = [a_channel(fleet, owner)[1] for owner in OWNERS]
    for channel in channels:
        for sender in (fleet.ours[1], fleet.theirs[1]):
            sender.send(channel, {"type": "early"})
    until(lambda: not any(raw.exists(fleet.prefix + key_name(channel)) for channel in channels))
    receivers = (fleet.ours[0], fleet.theirs[0], fleet.theirs[0])
    for receiver, channel in zip(receivers, channels, strict=True):
        receiver.listen(channel)
        fleet.ours[1].send(channel, {"type": "late"})
        assert receiver.heard(channel, 1) == [{"type": "late"}]


@pytest.mark.parametrize("receiver", ["ours", "theirs"])
def test_pubsub_refuses_nothing(receiver: str, make_fleet: Callable[..., Fleet]) -> None:
    """More messages than the core layer takes wait in the consumer's process, whoever sent them."""
    fleet = make_fleet("pubsub")
    member = fleet.ours[0] if receiver == "ours" else fleet.theirs[0]
    [channel] = member.new_channels(1)
    fleet.wait_for_subscriptions({channel: 1})
    for sender in (one_of(fleet, "ours"), one_of(fleet, "theirs")):
        assert sender.post(channel, sender.numbered(150))() == {}
        assert member.collect(channel, 150) == sender.numbered(150)
