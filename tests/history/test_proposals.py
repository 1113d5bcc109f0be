"""IDs that senders propose: rising, whatever the clock does, and above what others have taken."""

from __future__ import annotations

import time

import pytest

from channels_redis_fast.connection.identity import ServerIdentity
from channels_redis_fast.history import proposals
from channels_redis_fast.history.positions import Position
from channels_redis_fast.history.proposals import Contest, Proposer


def at(seconds: float) -> ServerIdentity:
    """A server whose clock shows that."""
    return ServerIdentity(clock=seconds - time.monotonic())


def test_it_is_the_servers_time() -> None:
    milliseconds, number = Proposer().propose(b"key", at(1_767_225_600.5))
    assert abs(milliseconds - 1_767_225_600_500) < 10_000
    assert 0 <= number < 10**9


def test_each_is_above_the_last() -> None:
    proposer = Proposer()
    entries = [proposer.propose(b"key", at(5_000.0)) for _ in range(2000)]
    assert entries == sorted(set(entries))


def test_also_when_the_clock_goes_back() -> None:
    """As another server's may after a failover."""
    proposer = Proposer()
    first = proposer.propose(b"key", at(5_000.0))
    second = proposer.propose(b"key", at(1_000.0))
    assert second == (first[0], first[1] + 1)
    assert proposer.propose(b"other", at(1_000.0)) < first


def test_above_what_another_sender_has_taken() -> None:
    proposer = Proposer()
    milliseconds, number = proposer.propose(b"key", at(5_000.0))
    proposer.overtaken(b"key", b"%d-%d" % (milliseconds + 60_000, 3))
    assert proposer.propose(b"key", at(5_000.0)) == (milliseconds + 60_000, 4)
    # What is older than its own is no news.
    proposer.overtaken(b"key", b"%d-%d" % (milliseconds, number))
    assert proposer.propose(b"key", at(5_000.0)) == (milliseconds + 60_000, 5)


def test_what_an_empty_stream_says() -> None:
    proposer = Proposer()
    entry = proposer.propose(b"key", at(5_000.0))
    proposer.overtaken(b"key", b"0-0")
    assert proposer.propose(b"key", at(1_000.0)) == (entry[0], entry[1] + 1)


@pytest.mark.parametrize("newest", [b"", b"-", b"5", b"a-b"])
def test_what_is_no_id(newest: bytes) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Proposer().overtaken(b"key", newest)


def test_two_senders_at_once_propose_different_ones() -> None:
    clock = at(5_000.0)
    entries = {Proposer().propose(b"key", clock) for _ in range(100)}
    assert len(entries) >= 99


def test_a_proposal_fits_a_position() -> None:
    for micro in (0, 999_999):
        milliseconds, number = Proposer().propose(b"key", at(1_767_225_600 + micro / 1e6))
        position = Position(milliseconds, number, "0" * 8, "0" * 8)
        assert Position.parse(str(position)) == position


def test_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream that was used longest ago is forgotten."""
    monkeypatch.setattr(proposals, "MAX_STREAMS", 3)
    proposer = Proposer()
    first = {n: proposer.propose(b"%d" % n, at(5_000.0)) for n in range(3)}
    proposer.propose(b"0", at(5_000.0))
    proposer.propose(b"3", at(5_000.0))
    assert proposer.propose(b"0", at(1.0)) > first[0]
    assert proposer.propose(b"1", at(1.0)) < first[1]


# Among others.


def test_one_that_is_overtaken_again_and_again() -> None:
    """It tries five times, and whoever comes after it as often."""
    contest = Contest("room", lambda: 0.0)
    for _ in range(2):
        assert [contest.overtaken() for _ in range(4)] == [None] * 4
        assert contest.pause == 0
        error = contest.overtaken()
        assert "Message for group room was not sent: 5 positions" in str(error)


def test_one_that_waits_for_its_turn() -> None:
    """The longer the seldomer it asks, and not for ever. That does not count as being overtaken."""
    now = 100.0
    contest = Contest("room", lambda: now)
    pauses = []
    while (error := contest.not_its_turn()) is None:
        pauses.append(contest.pause)
        now += max(contest.pause, 0.001)
    assert proposals.PATIENCE <= now - 100.0 < proposals.PATIENCE + 2 * proposals.LONGEST_PAUSE
    assert "has waited 60 s for its turn" in str(error)
    assert max(pauses) <= 2 * proposals.LONGEST_PAUSE
    assert contest.not_its_turn() is None
    assert contest.overtaken() is None


def test_each_contest_has_a_name_of_its_own() -> None:
    assert len({Contest("room", lambda: 0.0).by for _ in range(1000)}) == 1000
