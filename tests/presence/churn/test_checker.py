"""What the checker sees, on phases of which it is known."""

from __future__ import annotations

import random
from typing import Any

from tests.presence.churn.checker import JOIN, LEAVE, Event, Phase, check_events, check_presence, is_seen
from tests.presence.churn.plan import Truth, choose_actions, users


def phase(seen: dict[str, list[tuple[str, Any]]], **options: Any) -> Phase:
    events = {observer: [Event(*event) for event in some] for observer, some in seen.items()}
    return Phase("phase", frozenset({"a", 1}), frozenset({"b", 1}), events, **options)


RIGHT: list[tuple[str, Any]] = [(JOIN, "b"), (LEAVE, "a")]


def test_what_is_right() -> None:
    verdict = check_events(phase({"one": RIGHT, "two": RIGHT[::-1]}))
    assert verdict.violations == []
    assert verdict.counts["events"] == 2
    assert is_seen(phase({"one": RIGHT}), "one")
    assert not is_seen(phase({"one": RIGHT[:1]}), "one")


def test_what_is_missing() -> None:
    assert check_events(phase({"one": RIGHT[:1]})).violations == [
        "phase: one did not see 1 events: presence.leave of 'a'"
    ]
    assert check_events(phase({"one": RIGHT[:1]}, may_lose=True)).violations == []
    assert check_events(phase({"one": RIGHT[:1], "two": RIGHT}, excused=["one"])).violations == []


def test_what_is_missing_because_something_else_was() -> None:
    """One who has missed that a user left does not see that he is back, while servers may tell things again."""
    heard = {"one": {"b": JOIN}}
    verdict = check_events(phase({"one": RIGHT[1:]}, heard=heard, is_in_doubt=True))
    assert verdict.violations == []
    assert verdict.counts["missing"] == 1
    assert check_events(phase({"one": RIGHT[1:]}, heard=heard)).violations
    assert check_events(phase({"one": RIGHT[1:]}, heard={"one": {"b": LEAVE}}, is_in_doubt=True)).violations
    assert check_events(phase({"one": RIGHT[:1]}, heard=heard, is_in_doubt=True)).violations


def test_what_is_too_much() -> None:
    for more in (RIGHT, [(LEAVE, 1), (JOIN, 1)], [(LEAVE, "b")], [(JOIN, "a")], [(JOIN, "stranger")]):
        verdict = check_events(phase({"one": [*RIGHT, *more]}, may_lose=True))
        assert verdict.violations, more
        assert verdict.counts["extra"] >= 1
    # One who was there before, to an observer that has heard of him, or has not.
    again: list[tuple[str, Any]] = [*RIGHT, (JOIN, 1)]
    assert check_events(phase({"one": again}, heard={"one": {1: JOIN}})).violations
    assert check_events(phase({"one": again}, heard={"one": {"a": JOIN}})).violations == []
    # One who came back unheard: what was heard last is that he has left.
    assert check_events(phase({"one": again}, heard={"one": {1: LEAVE}})).violations == []
    assert check_events(phase({"one": [*again[:2], (LEAVE, 1)]})).violations
    assert check_events(phase({"one": [(JOIN, "a"), *again]})).violations == []
    # Each of the right kind, but the other way round.
    assert check_events(phase({"one": [(LEAVE, "b"), (JOIN, "a")]})).violations


def test_what_comes_late() -> None:
    """One who was stopped has seen everything only with what came meanwhile."""
    late = {"one": [(1, LEAVE)]}
    assert not is_seen(phase({"one": RIGHT}, late=late), "one")
    assert is_seen(phase({"one": [(LEAVE, 1), *RIGHT]}, late=late), "one")


def test_a_lease_that_had_run_out() -> None:
    """Users of that process may be said to have left and to be back, and nobody else."""
    again = [*RIGHT, (LEAVE, 1), (JOIN, 1)]
    verdict = check_events(phase({"one": again}, lapsed=[1]))
    assert verdict.violations == []
    assert verdict.counts["lapsed"] == 1
    assert check_events(phase({"one": again}, lapsed=["a"])).violations
    for wrong in ([(JOIN, 1)], [(LEAVE, 1)], [(JOIN, 1), (LEAVE, 1)]):
        assert check_events(phase({"one": [*RIGHT, *wrong]}, lapsed=[1], heard={"one": {1: JOIN}})).violations, wrong


def test_who_is_there() -> None:
    assert check_presence("x", "p", ["a", 1], 2, {"a", 1}) == []
    assert check_presence("x", "p", ["a", "1"], 2, {"a", 1}) != []
    assert check_presence("x", "p", ["a"], 2, {"a"}) != []


def test_a_seed_is_a_story() -> None:
    def story(seed: int) -> tuple[Any, Any]:
        truth, chance = Truth(), random.Random(seed)
        actions = [choose_actions(chance, truth, users(30), [0, 1, 3], 0.5) for _ in range(20)]
        return actions, truth.tabs

    assert story(1) == story(1)
    assert story(1) != story(2)
    actions, tabs = story(3)
    assert {action.kind for some in actions for action in some} == {"open", "close", "reload", "kick", "leave"}
    assert {tab.process for tab in tabs.values()} == {0, 1, 3}
