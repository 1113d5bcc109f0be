"""What is known of a group that a consumer has joined, and which classes can be made."""

from __future__ import annotations

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from channels_redis_fast import consumers
from channels_redis_fast.consumers import DirectDispatch, Resumable
from channels_redis_fast.consumers.recovery import MAX_HELD, JoinedGroup
from channels_redis_fast.history import FIELD, History


def history_of(*positions: str, tip: str) -> History:
    return History([{"type": "a", FIELD: position} for position in positions], tip, True)


def at(number: int, epoch: str = "11111111") -> str:
    return f"{number:013d}-{0:010d}-aaaaaaaa{epoch}"


def test_repeats_are_told_by_their_epoch() -> None:
    """A server that was promoted may have an older clock: what it writes then is new all the same."""
    group = JoinedGroup("room.a", at(1, "00000000"), history_of(at(7, "00000000"), at(3), tip=at(4)), True)
    assert [group.is_repeat(at(number)) for number in (3, 4, 5)] == [True, True, False]
    assert [group.is_repeat(at(number, "00000000")) for number in (6, 7)] == [False, True]
    assert not group.is_repeat(at(2, "22222222"))
    group.caught_up()
    assert group.position == at(4)
    group.advance(at(6))
    # Overtaken by the one before it, as on a ring.
    group.advance(at(5))
    assert group.position == at(6)
    group.advance(at(2, "22222222"))
    assert group.position == at(2, "22222222")


def test_a_client_that_is_ahead_of_its_group() -> None:
    """It made its position up, or the server's clock was set back: from here on it is where everybody is."""
    for first in (at(3), at(5)):
        group = JoinedGroup("room.a", at(9), history_of(tip=at(4)), False)
        if first == at(3):
            group.caught_up()
            assert group.position == at(4)
        group.advance(at(5))
        assert group.position == at(5)


def test_what_came_while_a_client_was_not_accepted() -> None:
    """It is newer than the tip, also where a server has restarted in between."""
    for newer in (at(7), at(2, "22222222")):
        group = JoinedGroup("room.a", at(1), history_of(at(3), tip=at(4)), True)
        group.advance(at(3))
        group.advance(newer)
        group.caught_up()
        assert group.position == newer


def test_what_is_held_is_bounded() -> None:
    """Beside what was missed, of which the history is the bound."""
    missed = [at(number) for number in range(1, 2 * MAX_HELD)]
    group = JoinedGroup("room.a", at(0), history_of(*missed, tip=missed[-1]), True)
    for number in range(MAX_HELD + 1):
        assert group.complete
        group.hold({"number": number})
    assert not group.complete
    assert group.held is not None
    assert len(group.held) == len(missed) + MAX_HELD


def test_classes_that_cannot_be() -> None:
    with pytest.raises(TypeError, match="Sync is a SyncConsumer"):
        type("Sync", (Resumable, WebsocketConsumer), {})
    with pytest.raises(TypeError, match=r"DirectDispatch would skip RecoveringConsumer\.dispatch"):
        type("Late", (consumers.AsyncJsonWebsocketConsumer, Resumable), {})
    assert issubclass(type("Fast", (Resumable, DirectDispatch, AsyncWebsocketConsumer), {}), DirectDispatch)
