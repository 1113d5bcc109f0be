"""The checker finds what is wrong, and lets pass what the rules permit."""

from __future__ import annotations

import pytest

from tests.faults.chaos.checker import Verdict, check, trace
from tests.faults.chaos.record import ACKNOWLEDGED, RAISED, Record
from tests.faults.chaos.rules import RECOVERY, RULES, Allowance, Happened


def recorded(count: int = 10, kind: str = "specific", at: float = 0.0, outcome: str = ACKNOWLEDGED) -> Record:
    """So many sends of a flow, one in each second."""
    record = Record()
    for number in range(count):
        send = record.begin("f", number, kind, ["place"])
        record.end(send, outcome)
        send.begun, send.ended = at + number, at + number
    return record


def take(record: Record, *numbers: int, place: str = "place", receiver: str = "one") -> Record:
    for number in numbers:
        record.take({"flow": "f", "n": number}, place, receiver)
    return record


def verdict(record: Record, *faults: Happened, layer: str = "core", shards: int = 1) -> Verdict:
    return check(record, Allowance(layer, faults, shards))


def test_all_is_well() -> None:
    found = verdict(take(recorded(), *range(10)))
    assert found.violations == []
    assert (found.counts["sends"], found.counts["acknowledged"], found.counts["received"]) == (10, 10, 10)


@pytest.mark.parametrize("layer", ["core", "pubsub"])
def test_a_loss(layer: str) -> None:
    found = verdict(take(recorded(), *range(9)), layer=layer)
    assert found.counts["lost"] == 1
    assert found.about == [("f", 9, "place")]


@pytest.mark.parametrize("kind", ["specific", "general", "group"])
def test_a_duplicate(kind: str) -> None:
    found = verdict(take(recorded(kind=kind), *range(10), 3), Happened("kill", 0, 1))
    assert (found.counts["duplicated"], found.counts["reordered"]) == (1, 0)
    assert found.violations == ["came 2 times: f 3 at place"]


def test_a_duplicate_of_a_send_that_raised() -> None:
    assert verdict(take(recorded(outcome=RAISED), 3, 3)).violations == ["came 2 times: f 3 at place"]


@pytest.mark.parametrize("kind", ["specific", "general", "group"])
def test_a_reordering(kind: str) -> None:
    found = verdict(take(recorded(kind=kind), 0, 2, 1, *range(3, 10)))
    assert found.counts["reordered"] == 1
    assert found.violations == ["came after 2: f 1 at place"]


def test_each_receiver_has_its_own_order() -> None:
    record = take(recorded(kind="general"), 1, 3, 5, 7, 9)
    assert not verdict(take(record, 0, 2, 4, 6, 8, receiver="two")).violations


def test_no_order_across_shards() -> None:
    assert not verdict(take(recorded(kind="general"), *reversed(range(10))), shards=2).violations


def test_what_nobody_sent_there() -> None:
    record = take(take(recorded(), *range(10)), 1, place="elsewhere")
    assert verdict(take(record, 99)).violations == [
        "never sent there: f 1 at elsewhere",
        "never sent there: f 99 at place",
    ]


def test_what_is_stuck_or_strange() -> None:
    record = Record(stuck=["send f 1"], errors=["TypeError()"])
    assert verdict(record).violations == ["stuck: send f 1", "error: TypeError()"]


@pytest.mark.parametrize("outcome", [RAISED, "unknown"])
def test_what_was_not_acknowledged_may_be_lost(outcome: str) -> None:
    assert not verdict(recorded(outcome=outcome)).violations


def test_one_message_dies_with_a_connection() -> None:
    fault = Happened("kill", 0, 1)
    assert not verdict(take(recorded(), *range(9)), fault).violations
    assert verdict(take(recorded(), *range(8)), fault).counts["lost"] == 2
    assert len(verdict(take(recorded(), *range(8)), fault).violations) == 2
    assert not verdict(take(recorded(), *range(8)), fault, shards=2).violations


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if not rule.deaths and not rule.outage])
@pytest.mark.parametrize("layer", ["core", "pubsub"])
def test_what_takes_nothing_along(name: str, layer: str) -> None:
    assert verdict(take(recorded(), *range(9)), Happened(name, 0, 9), layer=layer).violations


@pytest.mark.parametrize("silence", ["pause", "stall"])
def test_one_message_dies_when_a_layer_closes_beside_a_silent_server(silence: str) -> None:
    record = take(recorded(), *range(9))
    assert not verdict(record, Happened(silence, 2, 4), Happened("close_receivers", 3, 5)).violations
    assert verdict(record, Happened(silence, 2, 4), Happened("close_receivers", 5, 6)).violations
    assert verdict(record, Happened("delay", 2, 4), Happened("close_receivers", 3, 5)).violations


def test_pubsub_is_deaf_during_an_outage_alone() -> None:
    fault = Happened("cut", 3, 4)
    deaf = range(2, 5 + int(RECOVERY))
    record = take(recorded(20), *(number for number in range(20) if number not in deaf))
    assert not verdict(record, fault, layer="pubsub").violations
    assert verdict(take(recorded(20), *range(19)), fault, layer="pubsub").violations


def test_an_empty_server_forgets_what_came_before() -> None:
    fault = Happened("restart_empty", 3, 4)
    assert not verdict(take(recorded(), *range(5, 10)), fault).violations
    assert len(verdict(take(recorded(), *range(7, 10)), fault).violations) == 2


def test_a_failover_may_repeat_jobs_and_nothing_else() -> None:
    fault = Happened("failover", 0, 1)
    assert not verdict(take(recorded(kind="general"), *range(10), 9), fault).violations
    assert verdict(take(recorded(), *range(10), 9), fault).violations


def test_a_trace_tells_of_the_neighbours() -> None:
    lines = trace(take(recorded(), 4, 5, 9), "f", 5, "place", around=1)
    assert [line.split(None, 1)[1].partition(",")[0] for line in lines if "sent" in line] == [
        "sent 4",
        "sent 5",
        "sent 6",
    ]
    assert sum("came" in line for line in lines) == 2
