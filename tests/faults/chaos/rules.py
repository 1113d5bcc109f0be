"""What may become of messages under each fault, and why. The one place that says so; the checker does the arithmetic.

The sources are `docs/delivery.md` and `docs/reliability.md`. What holds always:

- A message comes at a place at most once, and only where it was sent to.
- Of one flow, acknowledged messages come to a receiver in the order sent. Those that raised are left out: a server that
  was paused may execute what an old connection brought after what a newer one did.
- A send that raised, or whose end nobody heard of, may have arrived or not.
- Every call ends, and every place receives again when the faults are over.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds after an outage in which Pub/Sub may be deaf, and groups be on their way back, on a machine that is busy.
RECOVERY = 4.0
#: Seconds before a fault in which a message that was acknowledged may still be on its way to its receiver.
ON_THE_WAY = 1.0


@dataclass(frozen=True)
class Rule:
    """
    What one fault permits. `deaths`: how many blocking connections of each receiving layer it may end, on each shard,
    each of which may take one message along. `outage`: Pub/Sub misses what is published meanwhile. `forgets`: the
    server may lose what it had acknowledged up to then. `repeats`: a general channel's job may be done again.
    `silence`: the server does not answer, so a layer that closes meanwhile drops the connection after a second.
    """

    reason: str
    deaths: int = 0
    outage: bool = False
    forgets: bool = False
    repeats: bool = False
    silence: bool = False


CONNECTION = "a message on its way in a blocking connection dies with it: one for each shard and receiving layer"

RULES: dict[str, Rule] = {
    "kill": Rule(CONNECTION, deaths=1, outage=True),
    "cut": Rule(CONNECTION, deaths=1, outage=True),
    "cut_after": Rule(CONNECTION, deaths=1, outage=True),
    "refuse": Rule(CONNECTION, deaths=1, outage=True),
    "stall": Rule("bytes wait and arrive: nothing is lost, and 1.5 s are less than any deadline", silence=True),
    "delay": Rule("bytes arrive later"),
    "slice": Rule("bytes arrive one by one"),
    "pause": Rule("a server that stands still for less than a deadline forgets nothing", silence=True),
    "pause_client": Rule("what came for a process while it stood still waits in its socket"),
    "script_flush": Rule("a script that the server does not know is sent again, before anything has happened"),
    "restart_aof": Rule("the server had written all that it acknowledged; " + CONNECTION, deaths=1, outage=True),
    "restart_empty": Rule("what waited in the server is gone", deaths=1, outage=True, forgets=True),
    "failover": Rule("replication is asynchronous", deaths=1, outage=True, forgets=True, repeats=True),
    "kill_primary": Rule("replication is asynchronous", deaths=1, outage=True, forgets=True, repeats=True),
    "fork": Rule("a child has connections of its own"),
    "cancel": Rule("a receive that is cancelled leaves its message to the next"),
    "close_senders": Rule("what was sent is answered, or raises"),
    # Pub/Sub ends its subscriptions with the connection; core puts back what it has taken.
    "close_receivers": Rule("closing a layer ends its subscriptions; the next receive opens them again", outage=True),
}


@dataclass(frozen=True)
class Happened:
    """A fault that took place, in seconds since the round began."""

    name: str
    begun: float
    ended: float

    @property
    def rule(self) -> Rule:
        return RULES[self.name]


@dataclass(frozen=True)
class Allowance:
    """What the faults of a round permit, where so many layers (`receivers`) receive from so many servers (`shards`)."""

    layer: str
    faults: tuple[Happened, ...]
    shards: int = 1
    receivers: int = 1

    @property
    def lost_with_connections(self) -> int:
        """How many messages of core may be lost one by one, whenever they were sent."""
        if self.layer == "pubsub":
            return 0
        deaths = sum(fault.rule.deaths + self._drops_connections(fault) for fault in self.faults)
        return deaths * self.shards * self.receivers

    def _drops_connections(self, fault: Happened) -> bool:
        return fault.name == "close_receivers" and any(
            other.rule.silence and other.begun <= fault.ended and fault.begun <= other.ended for other in self.faults
        )

    def may_lose(self, kind: str, begun: float, ended: float) -> bool:
        """Whether a message that was sent in this time may be lost without being counted."""
        for fault in self.faults:
            last = fault.ended + RECOVERY
            if self.layer == "pubsub" and fault.rule.outage and ended >= fault.begun - ON_THE_WAY and begun <= last:
                return True
            # What waits in the server can be old; a group is restored when its members have reconnected.
            if self.layer == "core" and fault.rule.forgets and begun <= (last if kind == "group" else fault.ended):
                return True
        return False

    def may_repeat(self, kind: str) -> bool:
        return self.layer == "core" and kind == "general" and any(fault.rule.repeats for fault in self.faults)

    def is_ordered(self, kind: str) -> bool:
        """A general channel takes turns among shards, and others pass what goes back from a cancelled receive."""
        return kind != "general" or (self.shards == 1 and not self.faults)
