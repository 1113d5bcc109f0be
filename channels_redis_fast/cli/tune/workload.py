"""
A workload: how messages arrive, how large they are, who consumes them and how long that takes.

``timetable`` turns one into the times of a run, from a seed: runs with one seed see exactly the same arrivals, so that
only the capacity differs between them. Knows no layer. ``profile`` knows where the numbers come from.
"""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import dataclass

#: Where messages are sent: a general channel (workers), specific channels (one for each consumer), a group of these.
TARGETS = ("general", "specific", "group")

ARRIVALS = ("poisson", "regular")
SERVICES = ("sleep", "cpu")
SPREADS = ("constant", "exponential")

#: The precision in seconds beyond which no process can be expected to be exact.
SOON = 0.005


@dataclass(frozen=True)
class Workload:
    """
    The load on a layer. Times in seconds, sizes in bytes.

    ``to``: one of TARGETS. ``rate``: messages (or group messages) per second in the long run, without the bursts;
    ``arrivals``: how they come, at random or evenly. ``burst``: messages that come in addition, spread evenly over
    ``burst_length``, once every ``burst_every``. ``size``: the size of a packed message. ``consumers``: their number in
    each of ``processes``. ``service_time``: how long a consumer takes for a message on average, the same for each or
    exponentially distributed (``service_spread``); ``service``: whether it waits meanwhile, as for a database, or
    computes, which holds up all consumers of its process.
    """

    service_time: float
    to: str = "general"
    rate: float = 0.0
    arrivals: str = "poisson"
    burst: int = 0
    burst_every: float = 10.0
    burst_length: float = 0.0
    size: int = 200
    consumers: int = 1
    processes: int = 1
    service: str = "sleep"
    service_spread: str = "constant"

    @property
    def mean_rate(self) -> float:
        """Messages per second, including bursts."""
        return self.rate + self.burst / self.burst_every

    @property
    def receivers(self) -> int:
        """Consumers in all processes."""
        return self.consumers * self.processes

    @property
    def copies(self) -> int:
        """How many consumers get each message."""
        return self.receivers if self.to == "group" else 1

    @property
    def servers(self) -> int:
        """What works at the same time: each consumer, or each process if consumers compute."""
        return self.processes if self.service == "cpu" else self.receivers

    @property
    def tolerance(self) -> float:
        """The permitted delay of a send in seconds: it then still falls into the same message's work, or nearly so."""
        return max(SOON, self.service_time / 2)

    def utilisation(self, service_time: float | None = None) -> float:
        """The share of time for which the consumers are busy; at 1 and above, the queue grows without end."""
        each = self.service_time if service_time is None else service_time
        return self.mean_rate * self.copies * each / self.servers


@dataclass(frozen=True)
class Timetable:
    """When each message of a run is due (seconds from its start, rising), whose it is, and how long it takes."""

    dues: array[float]
    targets: array[int]
    works: array[float]

    def __len__(self) -> int:
        return len(self.dues)


def timetable(workload: Workload, seconds: float, seed: int) -> Timetable:
    """Return the messages of a run. A seed gives the same messages on every machine."""
    # Separate random streams, so that another service time leaves the arrivals unchanged.
    coming, choosing, taking = (random.Random(f"{seed} {what}") for what in ("arrivals", "targets", "works"))
    dues = array("d", sorted([*_steady(workload, seconds, coming), *_bursts(workload, seconds)]))
    # Each consumer of a group works on every message.
    choices = workload.receivers if workload.to == "specific" else 1
    targets = array("L", [choosing.randrange(choices) if choices > 1 else 0 for _ in dues])
    mean = workload.service_time
    if workload.service_spread == "exponential" and mean > 0:
        works = array("d", [taking.expovariate(1 / mean) for _ in dues])
    else:
        works = array("d", [mean] * len(dues))
    return Timetable(dues, targets, works)


def _steady(workload: Workload, seconds: float, generator: random.Random) -> list[float]:
    if workload.rate <= 0:
        return []
    if workload.arrivals == "regular":
        return [(number + 0.5) / workload.rate for number in range(math.floor(seconds * workload.rate + 0.5))]
    dues = []
    due = generator.expovariate(workload.rate)
    while due < seconds:
        dues.append(due)
        due += generator.expovariate(workload.rate)
    return dues


def _bursts(workload: Workload, seconds: float) -> list[float]:
    if not workload.burst:
        return []
    step = workload.burst_length / workload.burst
    # The first burst comes after half the pause, so that a run of n pauses has n bursts and time for the last one.
    begins = [
        (number + 0.5) * workload.burst_every for number in range(math.floor(seconds / workload.burst_every + 0.5))
    ]
    return [begin + position * step for begin in begins for position in range(workload.burst)]
