"""Groups with a history in a mixed fleet: what channels_redis gets has one more key, and what it sends is not kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.interop.fleet import Fleet
from tests.interop.options import OPTIONS, messages

POSITION = re.compile(r"\d{13}-\d{10}-[0-9a-f]{16}", re.ASCII)
HISTORY = {"history": {"room*": {"size": 100, "ttl": 60}}}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_core(options: dict[str, Any], make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet("core", of_ours=HISTORY, **options)
    channels = {member.new_channels(1)[0]: member for member in fleet.members}
    for channel, member in channels.items():
        member.listen(channel)
        member.group_add("room", channel)
    sent = messages(options)
    for sender in fleet.ours:
        for message in sent:
            sender.group_send("room", {**message, "by": str(sender)})
    own = [{**message, "by": str(sender)} for sender in fleet.ours for message in sent]
    heard = {channel: member.heard(channel, len(own)) for channel, member in channels.items()}
    first = heard[next(iter(channels))]
    for channel, received in heard.items():
        assert received == first, str(channels[channel])
    positions = [message.pop("__position__") for message in first]
    assert first == own
    assert all(POSITION.fullmatch(position) for position in positions)
    assert positions == sorted(set(positions))
    # What they send comes as ever, is forwarded without the position of another, and is not in the history.
    fleet.theirs[0].group_send("room", {"n": 1, "__position__": positions[0]})
    for channel, member in channels.items():
        assert member.heard(channel, len(own) + 1)[-1] == {"n": 1, "__position__": positions[0]}
    history, newest, is_complete = fleet.ours[1].call("group_history", "room")
    assert [message["__position__"] for message in history] == positions
    assert (newest, is_complete) == (positions[-1], True)
