"""What was delivered and comes again is left out, while it may come again; otherwise nothing is searched for."""

from __future__ import annotations

from typing import Any

import pytest

from channels_redis_fast.core.cluster_pump import DOUBTFUL, View
from channels_redis_fast.messages import delivered
from channels_redis_fast.messages.delivered import DeliveredMembers


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(delivered, "time", clock)
    return clock


def test_only_what_is_in_doubt_is_left_out(clock: Clock) -> None:
    members = DeliveredMembers()
    assert members.new([b"one", b"two"]) == [b"one", b"two"]
    # Nobody has said that they may come again.
    assert members.new([b"one", b"three"]) == [b"one", b"three"]
    members.doubt(5)
    assert members.new([b"one", b"four", b"two"]) == [b"four"]
    # What came since is in no doubt.
    assert members.new([b"four"]) == [b"four"]
    clock.now += 5.1
    assert members.new([b"one"]) == [b"one"]


def test_members_that_begin_alike_are_told_apart(clock: Clock) -> None:
    """Events of presence begin with a number and an epoch, and other senders may have no prefixes of their own."""
    one, other = b"1234567.4c3d of one group", b"1234567.4c3d of another"
    members = DeliveredMembers()
    members.new([one])
    members.doubt(5)
    assert members.new([other, one]) == [other]


def test_a_short_doubt_does_not_end_a_long_one(clock: Clock) -> None:
    members = DeliveredMembers()
    members.new([b"one"])
    members.doubt(60)
    members.doubt(5)
    clock.now += 6
    assert members.new([b"one"]) == []


def test_a_second_doubt_has_what_came_since(clock: Clock) -> None:
    members = DeliveredMembers()
    members.new([b"one"])
    members.doubt(5)
    members.new([b"two"])
    clock.now += 4
    members.doubt(5)
    clock.now += 4
    assert members.new([b"one", b"two", b"three"]) == [b"three"]


def test_no_more_than_the_last_are_remembered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivered, "REMEMBERED", 2)
    members = DeliveredMembers()
    members.new([b"one", b"two", b"three"])
    members.doubt(5)
    assert members.new([b"one", b"two", b"three"]) == [b"one"]


class Pump:
    """What a view asks of its pump here: which server has the key."""

    def __init__(self, distinguishes_equal_messages: bool) -> None:
        self.server = object()
        self.distinguishes_equal_messages = distinguishes_equal_messages

    def server_of(self, key: bytes) -> object:
        return self.server


class Target:
    key = b"asgispecific.x!"

    def __init__(self) -> None:
        self.delivered = DeliveredMembers()


@pytest.mark.parametrize("random_prefix", [True, False])
def test_a_server_of_a_cluster_is_in_doubt_when_it_is_new(clock: Clock, random_prefix: bool) -> None:
    """Without a random prefix of some length the same again is as likely a message of its own."""
    pump: Any = Pump(random_prefix)
    target: Any = Target()
    view = View(pump, target)

    def found(members: list[bytes]) -> list[bytes]:
        view._doubt_another_server(target)
        return target.delivered.new(members)  # type: ignore[no-any-return]

    assert found([b"one"]) == [b"one"]
    # The first server took it away itself.
    assert found([b"one"]) == [b"one"]
    pump.server = object()
    assert found([b"one", b"two"]) == ([b"two"] if random_prefix else [b"one", b"two"])
    clock.now += DOUBTFUL + 0.1
    assert found([b"one"]) == [b"one"]
