"""
The results of a run: turns the messages that were sent and received into losses and waiting times, with their
intervals, and into doubts about them if the machine could not keep up. Judges nothing. Knows no process and no server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from .estimate import quantile, quantile_of, share_of
from .player import unpacked
from .workload import Timetable, Workload

#: The part at the beginning of a run that its numbers leave out, because the queues are still empty.
WARM_UP = 0.1

#: A process that sends or waits raises doubts if it used more than this much of a processor.
BUSY = 0.9

#: The share of late sends, and of service times that are too long, from which a run is doubted.
MOST_LATE, MOST_SLOW = 0.02, 0.10

#: The number of seconds by which a service time may always be too long: the inaccuracy of timers.
TICK = 0.001


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass
class Run:
    """The results of one capacity. Times in seconds; ``refused``, ``dropped`` and so on count deliveries."""

    capacity: int
    seconds: float
    #: How many deliveries there should have been, how many there were, and why others were not made: the key was full,
    #: the mailbox in the process was full, they were too old, the send failed, or the reason is unknown.
    offered: int
    received: int
    refused: int
    dropped: int
    expired: int
    failed: int
    unaccounted: int
    #: For deliveries after the warm-up.
    loss: Estimate
    wait_p50: float | None
    wait_p95: float | None
    wait_p99: Estimate | None
    wait_max: float | None
    #: Sends that were late, and the longest delay.
    late: int
    latest: float
    #: The average time that a message took its consumer, and the time until it had the next waiting message.
    service_time: float
    fetch_time: float
    utilisation: float
    #: Seconds of processor time; the servers' is None if they do not tell.
    cpu_sender: float
    cpu_consumers: float
    cpu_server: float | None = None
    #: The size of a packed message.
    message_bytes: int = 0
    #: The fullest key that was seen, the size of all keys at that time, and the size of a full key; None if the server
    #: does not tell, and on Pub/Sub, where nothing waits in Redis.
    depth: int | None = None
    memory: int | None = None
    memory_full: int | None = None
    #: How many runs there were at the same time.
    at_once: int = 1
    #: Why the run does not show what it was meant to show.
    doubts: list[str] = field(default_factory=list)

    @property
    def cycle(self) -> float:
        """The total time that a message takes of a busy consumer."""
        return self.service_time + self.fetch_time

    def as_dict(self) -> dict[str, Any]:
        """Return the run as it is in the JSON of a sweep."""
        return {**asdict(self), "is_reliable": not self.doubts}


def refused(workload: Workload, sent: Mapping[str, Any]) -> int:
    """Return the deliveries that the sender saw refused: a group's key stands for all consumers of a process."""
    if workload.to == "group":
        return int(sent["over_capacity"]) * workload.consumers
    return len(unpacked("L", sent["full"]))


def evaluate(
    workload: Workload,
    capacity: int,
    seconds: float,
    times: Timetable,
    sent: Mapping[str, Any],
    used: Mapping[str, Any],
    answers: Sequence[Mapping[str, Any]],
) -> Run:
    """
    Return the results of a timetable.

    ``sent`` and ``used`` are the sending process' answers to ``play`` and ``close``; ``answers`` are the consuming
    processes' answers to ``close``; ``seconds`` is the total time.
    """
    numbers = [number for one in answers for number in unpacked("L", one["numbers"])]
    waits = [wait for one in answers for wait in unpacked("d", one["waits"])]
    offered, failed = len(times) * workload.copies, sent["failed"] * workload.copies
    full = refused(workload, sent)
    dropped, expired = (sum(one["stats"][name] for one in answers) for name in ("dropped", "expired"))
    arrived = Counter(numbers)
    begin = next((at for at, due in enumerate(times.dues) if due >= WARM_UP * times.dues[-1]), 0)
    lost = [1 - arrived[number] / workload.copies for number in range(begin, len(times))]
    in_order = [wait for number, wait in sorted(zip(numbers, waits, strict=True)) if number >= begin]
    ordered = sorted(in_order)
    fetches = sum(one["fetches"] for one in answers)
    service = sum(one["worked"] for one in answers) / len(numbers) if numbers else workload.service_time
    # If consumers compute in turn, the time until the next message is spent on the others.
    is_own = workload.service == "sleep" or workload.consumers == 1
    fetch = sum(one["fetching"] for one in answers) / fetches if fetches and is_own else 0.0
    run = Run(
        capacity=capacity,
        seconds=seconds,
        offered=offered,
        received=len(numbers),
        refused=full,
        dropped=dropped,
        expired=expired,
        failed=failed,
        unaccounted=offered - len(numbers) - full - dropped - expired - failed,
        loss=Estimate(*share_of(lost)),
        wait_p50=quantile(ordered, 0.5) if ordered else None,
        wait_p95=quantile(ordered, 0.95) if ordered else None,
        wait_p99=Estimate(*quantile_of(in_order, 0.99)) if ordered else None,
        wait_max=ordered[-1] if ordered else None,
        late=sent["late"],
        latest=sent["latest"],
        service_time=service,
        fetch_time=fetch,
        utilisation=workload.utilisation(service + fetch),
        cpu_sender=used["cpu"],
        cpu_consumers=sum(one["cpu"] for one in answers),
    )
    asked = fmean(times.works[number] for number in numbers) if numbers else workload.service_time
    run.doubts += _doubts(workload, run, asked, len(times), sent["error"], [one["cpu"] / seconds for one in answers])
    return run


def _doubts(
    workload: Workload, run: Run, asked: float, sends: int, error: str | None, busy: Sequence[float]
) -> list[str]:
    """Return why a run does not show what it was meant to show, one sentence each."""
    doubts = []
    if run.late > MOST_LATE * sends:
        doubts.append(
            f"{run.late} of {sends} sends were more than {workload.tolerance * 1000:g} ms late, by up to "
            f"{run.latest * 1000:.0f} ms."
        )
    if run.service_time > asked * (1 + MOST_SLOW) + TICK:
        doubts.append(
            f"Consumers took {run.service_time * 1000:.1f} ms for a message instead of {asked * 1000:.1f} ms."
        )
    if run.cpu_sender / run.seconds > BUSY:
        doubts.append("The sending process had no processor time left.")
    if workload.service == "sleep" and max(busy, default=0.0) > BUSY:
        doubts.append("A process with consumers had no processor time left.")
    if run.failed:
        doubts.append(f"{run.failed} deliveries failed: {error}.")
    if run.unaccounted:
        doubts.append(f"Of {abs(run.unaccounted)} deliveries the outcome is unknown.")
    return doubts
