"""What a round does: who comes, who goes, and which fault happens meanwhile. The same seed gives the same rounds."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

#: Faults of a process, and those of servers by what they can happen to.
OF_PROCESSES = ("none", "kill", "stop_short", "stop_long")
OF_SERVERS = {
    "single": ("cut", "restart_aof", "restart_empty"),
    "ring": ("cut", "restart_aof", "restart_empty"),
    "sentinel": ("cut", "failover", "kill_primary"),
    "cluster": ("cut", "failover", "kill_primary"),
}

#: Those in which a server may lose what it has acknowledged.
LOSSY = ("restart_empty", "failover", "kill_primary")

#: What users do, and what other processes do with them: the one who has the channel does not know of that, and restores
#: it if the server has lost it.
OWN, BY_OTHERS = ("open", "close", "reload"), ("kick", "leave")

#: By setup, the layer and its servers.
SETUPS = {f"{layer}-{servers}": (layer, servers) for layer in ("core", "pubsub") for servers in OF_SERVERS}

User = str | int


@dataclass(frozen=True)
class Tab:
    """A channel of a user in one of the processes."""

    number: int
    user: User
    process: int


@dataclass
class Truth:
    """Who has to be there: every tab that was opened, and neither closed nor killed."""

    tabs: dict[int, Tab] = field(default_factory=dict)
    opened: int = 0

    def open(self, user: User, process: int) -> Tab:
        tab = self.tabs[self.opened] = Tab(self.opened, user, process)
        self.opened += 1
        return tab

    def close(self, tabs: Iterable[Tab]) -> None:
        for tab in tabs:
            del self.tabs[tab.number]

    def of_user(self, user: User) -> list[Tab]:
        return [tab for tab in self.tabs.values() if tab.user == user]

    def of_process(self, process: int) -> list[Tab]:
        return [tab for tab in self.tabs.values() if tab.process == process]

    def present(self, without: int | None = None) -> set[User]:
        """The users who are there; `without`: a process that counts as gone."""
        return {tab.user for tab in self.tabs.values() if tab.process != without}


@dataclass(frozen=True)
class Action:
    """
    `kind`: `open` and `close` a tab, `reload` (close one and open another at once, in another process), `kick` (close
    it from another process), `leave` (all tabs of a user at once). `opened` and `closed` are the tabs of this.
    """

    kind: str
    user: User
    opened: tuple[Tab, ...] = ()
    closed: tuple[Tab, ...] = ()
    #: The process that asks for it.
    process: int = 0


@dataclass(frozen=True)
class Fault:
    """`after` seconds into the round `name` happens, for `seconds`, to a process or a server (`number`)."""

    name: str
    after: float
    seconds: float
    number: int


def users(count: int) -> list[User]:
    """Names as text, and primary keys as numbers."""
    return [number if number % 3 == 0 else f"user{number}" for number in range(count)]


def choose_actions(
    chance: random.Random,
    truth: Truth,
    everybody: Sequence[User],
    processes: Sequence[int],
    share: float,
    kinds: Sequence[str] = OWN + BY_OTHERS,
) -> list[Action]:
    """
    Let a share of the users do something in some processes, each of them one thing; the truth is as if that was done.

    Who is in another process as well does nothing: what becomes of that is the fault's doing.
    """
    actions = []
    for user in chance.sample(list(everybody), round(len(everybody) * share)):
        mine = truth.of_user(user)
        if any(tab.process not in processes for tab in mine):
            continue
        kind = chance.choice(kinds) if mine else "open"
        if kind == "open":
            opened = tuple(truth.open(user, chance.choice(processes)) for _ in range(chance.randint(1, 3)))
            actions.append(Action(kind, user, opened))
        elif kind == "leave":
            truth.close(mine)
            actions.append(Action(kind, user, (), tuple(mine), chance.choice(processes)))
        else:
            tab = chance.choice(mine)
            other = chance.choice([process for process in processes if process != tab.process])
            truth.close([tab])
            opened = (truth.open(user, other),) if kind == "reload" else ()
            actions.append(Action(kind, user, opened, (tab,), other))
    return actions


def choose_fault(chance: random.Random, names: Sequence[str], processes: int, lease: float) -> Fault:
    name = chance.choice(names)
    # A lease has two thirds of its time left at least; and a third is left of that for a busy machine.
    seconds = chance.uniform(0.1, 0.45) * lease if name == "stop_short" else chance.uniform(0.1, 1.0)
    return Fault(name, chance.uniform(0.0, 0.5), seconds, chance.randrange(processes))
