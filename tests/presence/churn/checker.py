"""
What has to be seen of a phase, and whether it was. Knows who was there before and afterwards; nothing of how.

In a phase a user comes, goes, or stays: so each observer sees one `presence.join`, one `presence.leave`, or nothing.
That alternates by itself. Where servers have lost what they had, or connections, an event may be missing, as any
message may; one too many is never right. When a server is back groups are told again of what it may have taken along,
and whoever has heard exactly that last does not hear it: an observer that has come since, or that has missed something,
is told who was there, or has left. For some time after that, an observer that has missed a departure does not see the
return: a join is what it has heard last. Of a process whose lease has run out, on a machine too busy for such a lease,
users may be said to have left and to be back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tests.presence.churn.plan import User

JOIN, LEAVE = "presence.join", "presence.leave"


@dataclass(frozen=True)
class Event:
    kind: str
    user: User


@dataclass
class Phase:
    """From one moment at which all processes agreed to the next. `seen`: by observer, what it has seen, in order."""

    name: str
    before: frozenset[User]
    after: frozenset[User]
    seen: Mapping[str, Sequence[Event]]
    #: Whether what is sent may be lost: something happened to a server, or to a connection.
    may_lose: bool = False
    #: Whether it was shortly before, so that observers do not see what they have heard last.
    is_in_doubt: bool = False
    #: Observers that were killed or stopped.
    excused: Collection[str] = ()
    #: By observer and user, the kind of the event that was the last in earlier phases.
    heard: Mapping[str, Mapping[User, str]] = field(default_factory=dict)
    #: By observer that was stopped, what it sees of an earlier phase as soon as it goes on.
    late: Mapping[str, Collection[tuple[User, str]]] = field(default_factory=dict)
    #: The users with a channel in a process whose lease had run out, and no server was away.
    lapsed: Collection[User] = ()


@dataclass
class Verdict:
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    #: Of whom too much was told, or what was wrong.
    about: set[User] = field(default_factory=set)


def expected(before: Collection[User], after: Collection[User]) -> dict[User, str]:
    """By user, the one event that tells what has become of him."""
    return dict.fromkeys(set(after) - set(before), JOIN) | dict.fromkeys(set(before) - set(after), LEAVE)


def is_there_and_back(kinds: Sequence[str], before: bool, after: bool) -> bool:
    """Whether events of one user alternate, from whether he was there before to whether he is afterwards."""
    present = before
    for kind in kinds:
        if (kind == JOIN) == present:
            return False
        present = not present
    return present == after


def is_seen(phase: Phase, observer: str) -> bool:
    """Whether an observer has seen all events that are to come, those of an earlier phase included."""
    seen = {(event.user, event.kind) for event in phase.seen.get(observer, ())}
    return seen >= {*expected(phase.before, phase.after).items(), *phase.late.get(observer, ())}


def check_events(phase: Phase) -> Verdict:
    verdict = Verdict()
    to_come = expected(phase.before, phase.after)
    verdict.counts["events"] = len(to_come)
    for observer, events in phase.seen.items():
        got: dict[User, list[str]] = {}
        for event in events:
            got.setdefault(event.user, []).append(event.kind)
        for user, kinds in got.items():
            right = [to_come[user]] if user in to_come else []
            known = JOIN if user in phase.before else LEAVE
            if kinds == [known, *right] and phase.heard.get(observer, {}).get(user) != known:
                verdict.counts["told again"] += 1
            elif user in phase.lapsed and is_there_and_back(kinds, user in phase.before, user in phase.after):
                verdict.counts["lapsed"] += 1
            # One who was stopped sees what has come meanwhile when it goes on.
            elif kinds != right and observer not in phase.excused:
                verdict.about.add(user)
                verdict.counts["extra"] += len(kinds) - len(right)
                verdict.violations.append(f"{phase.name}: {observer} saw {kinds} of {user!r}, which should be {right}")
        if observer in phase.excused:
            continue
        missing = [user for user in to_come if user not in got]
        verdict.counts["missing"] += len(missing)
        if phase.is_in_doubt:
            heard = phase.heard.get(observer, {})
            missing = [user for user in missing if heard.get(user) != to_come[user]]
        if missing and not phase.may_lose:
            said = ", ".join(f"{to_come[user]} of {user!r}" for user in missing[:5])
            verdict.violations.append(f"{phase.name}: {observer} did not see {len(missing)} events: {said}")
    return verdict


def check_presence(name: str, process: str, told: Collection[User], count: int, truth: Collection[User]) -> list[str]:
    """What is wrong with the answer of one process."""
    wrong = []
    if set(told) != set(truth):
        ghosts, absent = sorted(map(str, set(told) - set(truth))), sorted(map(str, set(truth) - set(told)))
        wrong.append(
            f"{name}: {process} has {len(ghosts)} who are gone {ghosts[:5]} and lacks {len(absent)} {absent[:5]}"
        )
    if count != len(set(told)):
        wrong.append(f"{name}: {process} counts {count} and names {len(set(told))}")
    return wrong
