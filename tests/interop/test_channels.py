"""Messages to channels, from each package to each, under every setting; and what channels_redis loses on shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.interop.fleet import Fleet, Member, key_name, until
from tests.interop.options import OPTIONS, messages

under_all_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
on_both_layers = pytest.mark.parametrize("kind", ["core", "pubsub"])


def some_channels(fleet: Fleet, receiver: Member) -> list[str]:
    """New channels; on shards, of those that channels_redis sends right and of those that it misfiles."""
    channels = receiver.new_channels(4)
    while fleet.kind == "core" and len(fleet.urls) > 1 and len(set(map(fleet.is_misfiled, channels))) == 1:
        # Half of all are misfiled on two shards, four of five on five.
        channels = [*channels[:3], *receiver.new_channels(1)]
    return channels


@on_both_layers
@under_all_options
def test_specific_channels(
    kind: str,
    options: dict[str, Any],
    make_fleet: Callable[..., Fleet],
    upstream_fault: Callable[[str], None],
) -> None:
    """All of it arrives, in order and unchanged, in all directions at once; but for what theirs misfiles to theirs."""
    fleet, sent = make_fleet(kind, **options), messages(options)
    channels = {}
    for sender, receiver in fleet.directions:
        channels[sender, receiver] = some_channels(fleet, receiver)
        receiver.listen(*channels[sender, receiver])
        if kind == "pubsub":
            fleet.wait_for_subscriptions(dict.fromkeys(channels[sender, receiver], 1))
    posts = [sender.post(channel, sent) for (sender, receiver), names in channels.items() for channel in names]
    assert [post() for post in posts] == [{}] * len(posts)
    for (sender, receiver), names in channels.items():
        for channel in names:
            if fleet.is_misfiled(channel) and not sender.is_ours and not receiver.is_ours:
                continue
            heard = receiver.heard(channel, len(sent))
            assert heard == sent, f"{sender} to {receiver}, misfiled: {fleet.is_misfiled(channel)}"

    *_, (sender, receiver) = fleet.directions
    lost = [channel for channel in channels[sender, receiver] if fleet.is_misfiled(channel)]
    if lost:
        assert [receiver.heard(channel, 0) for channel in lost] == [[]] * len(lost)
        upstream_fault(f"{len(lost) * len(sent)} of {4 * len(sent)} messages were sent to the wrong shard and lost")
    for member in fleet.ours:
        assert member.call("stats")["undecodable"] == 0


@pytest.mark.parametrize("shards", [2, 5])
@pytest.mark.parametrize("listening", [False, True], ids=["nobody listens", "somebody listens"])
def test_misfiled_messages_are_rescued(shards: int, listening: bool, make_fleet: Callable[..., Fleet]) -> None:
    """What channels_redis has filed on the wrong shard, for several keys of ours, is found there and leaves nothing."""
    fleet = make_fleet("core", shards=shards)
    sender, receiver = fleet.theirs[0], fleet.ours[0]
    channels = [channel for kind in ("a", "b", "c") for channel in receiver.new_channels(10, kind)]
    misfiled = sum(map(fleet.is_misfiled, channels))
    assert misfiled
    if listening:
        receiver.listen(*channels)
    for channel in channels:
        sender.send(channel, {"to": channel})
    if not listening:
        keys = {fleet.prefix + key_name(channel) for channel in channels}
        found = [sum(raw.zcard(key) for key in keys) for raw in fleet.raws]
        expected = Counter(map(fleet.shard, channels))
        assert found == [expected[shard] for shard in range(shards)]
        receiver.listen(*channels)
    for channel in channels:
        assert receiver.heard(channel, 1) == [{"to": channel}]
    # A specific key's messages are removed after they were handed out.
    until(lambda: not any(raw.exists(fleet.prefix + key_name(channel)) for raw in fleet.raws for channel in channels))


@under_all_options
def test_general_channels_keep_messages(options: dict[str, Any], make_fleet: Callable[..., Fleet]) -> None:
    """What one process has left on a general channel another finds, whichever package they run; in order on one shard.

    So a process can be stopped, and started again with the other package.
    """
    fleet, sent = make_fleet("core", **options), messages(options)
    # As many on each shard: channels_redis' receivers wait on one shard after the other, whatever is there.
    sent = [{**message, "nth": nth} for nth, message in enumerate((sent * 2)[:10])]
    for number, (sender, receiver) in enumerate(fleet.directions):
        assert sender.post(f"jobs.{number}", sent)() == {}
        received = receiver.collect(f"jobs.{number}", len(sent))
        if len(fleet.urls) > 1:
            received.sort(key=lambda message: int(message["nth"]))
        assert received == sent, f"{sender} to {receiver}"


@under_all_options
def test_general_channels_on_pubsub(options: dict[str, Any], make_fleet: Callable[..., Fleet], prefix: str) -> None:
    """On Pub/Sub every process that receives on a channel gets everything, in each sender's order."""
    fleet, sent = make_fleet("pubsub", **options), messages(options)
    channel = f"{prefix}.news"
    for member in fleet.members:
        member.listen(channel)
    fleet.wait_for_subscriptions({channel: 4})
    posts = [
        sender.post(channel, [{**message, "by": str(sender)} for message in sent])
        for sender in (fleet.ours[0], fleet.theirs[0])
    ]
    assert [post() for post in posts] == [{}, {}]
    for receiver in fleet.members:
        heard = receiver.heard(channel, 2 * len(sent))
        for sender in (fleet.ours[0], fleet.theirs[0]):
            by_sender = [message for message in heard if message["by"] == str(sender)]
            assert by_sender == [{**message, "by": str(sender)} for message in sent], f"{sender} to {receiver}"


@on_both_layers
@pytest.mark.parametrize("shards", [1, 2])
def test_sends_of_one_tick_keep_their_order(kind: str, shards: int, make_fleet: Callable[..., Fleet]) -> None:
    """80 sends of ours at once, for each of three channels of each receiver, reach channels_redis in order too."""
    fleet = make_fleet(kind, shards, capacity=1000)
    sender, receivers = fleet.ours[0], [fleet.ours[1], *fleet.theirs]
    channels = [(receiver, channel) for receiver in receivers for channel in receiver.new_channels(3)]
    for receiver, channel in channels:
        receiver.listen(channel)
    if kind == "pubsub":
        fleet.wait_for_subscriptions({channel: 1 for _, channel in channels})
    posts = [sender.post(channel, sender.numbered(80), width=80) for _, channel in channels]
    assert [post() for post in posts] == [{}] * len(posts)
    for receiver, channel in channels:
        assert receiver.heard(channel, 80) == sender.numbered(80), str(receiver)
