"""
What queueing theory says about a workload: simulates the same messages and consumers with an ideal queue.

An ideal queue hands a message over in no time, so it shows what the layer adds, where the interesting capacities are,
and whether any capacity can help. Poisson arrivals and a constant service time make it M/D/c/K. It is simulated instead
of calculated because bursts, several servers and a last message that pushes out the oldest have no closed form. Knows
no layer and no clock.
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace

from .workload import Timetable, Workload, timetable

#: The number of messages in a timetable that is long enough to judge a number of consumers.
ENOUGH = 20_000

#: The largest number of consumers that is proposed.
MOST_CONSUMERS = 100_000


@dataclass(frozen=True)
class Line:
    """One queue of a workload: its messages, and the number of its servers."""

    dues: Sequence[float]
    works: Sequence[float]
    servers: int


def wait_in_line(
    line: Line, capacity: float = math.inf, oldest_gives_way: bool = False
) -> tuple[list[float | None], int]:
    """
    Return how long each message waits for a server, None if it is lost, and the most that waited at once.

    First come, first served. ``capacity``: how many may wait; beyond that, the new message is lost, or the oldest.
    """
    waits: list[float | None] = [None] * len(line.dues)
    free = [0.0] * line.servers
    waiting: deque[int] = deque()
    longest = 0

    def serve_until(now: float) -> None:
        while waiting and free[0] <= now:
            first = waiting.popleft()
            begin = max(free[0], line.dues[first])
            waits[first] = begin - line.dues[first]
            heapreplace(free, begin + line.works[first])

    for number, due in enumerate(line.dues):
        serve_until(due)
        if not waiting and free[0] <= due:
            waits[number] = 0.0
            heapreplace(free, due + line.works[number])
        elif len(waiting) < capacity:
            waiting.append(number)
            longest = max(longest, len(waiting))
        elif oldest_gives_way and waiting:
            waiting.popleft()
            waiting.append(number)
    serve_until(math.inf)
    return waits, longest


def lines(workload: Workload, times: Timetable, overhead: float = 0.0) -> list[Line]:
    """
    Return the queues of a workload's consumers.

    ``overhead`` is the time that each message takes in addition to its work.

    Consumers that compute are one server for each process. Members of a group all see the same messages, so one stands
    for all.
    """
    works = array("d", [work + overhead for work in times.works])
    if workload.to == "general":
        return [Line(times.dues, works, workload.servers)]
    if workload.to == "group":
        if workload.service == "cpu":
            return [_repeated(times.dues, works, workload.consumers)]
        return [Line(times.dues, works, 1)]
    # Each consumer's channel has its own queue; consumers that compute take turns within their process.
    shared = workload.consumers if workload.service == "cpu" else 1
    parts: dict[int, tuple[array[float], array[float]]] = {}
    for due, target, work in zip(times.dues, times.targets, works, strict=True):
        dues, own = parts.setdefault(target // shared, (array("d"), array("d")))
        dues.append(due)
        own.append(work)
    return [Line(dues, own, 1) for dues, own in parts.values()]


def is_ideal(workload: Workload, is_core: bool, shards: int) -> bool:
    """
    Return whether a layer holds exactly as many messages as its capacity says, as an ideal queue does.

    On the core layer, this is true of a general channel on one shard. Specific channels have a key and a mailbox, and
    how much each of them takes depends on the number of consumers in the process. On Pub/Sub there is only the mailbox.
    """
    if workload.service == "cpu":
        return False
    return workload.to == "general" and shards == 1 if is_core else True


def _repeated(dues: Sequence[float], works: Sequence[float], times: int) -> Line:
    return Line([due for due in dues for _ in range(times)], [work for work in works for _ in range(times)], 1)


def outcome(queues: list[Line], capacity: float, oldest_gives_way: bool = False) -> tuple[float, list[float]]:
    """Return the share that is lost, and the sorted waiting times of the other messages."""
    waits = [wait for line in queues for wait in wait_in_line(line, capacity, oldest_gives_way)[0]]
    taken = sorted(wait for wait in waits if wait is not None)
    return (1 - len(taken) / len(waits) if waits else 0.0), taken


def smallest_capacity(queues: list[Line], max_loss: float) -> int:
    """Return the smallest capacity, at least 1, with which an ideal queue loses no more than ``max_loss``."""
    most = max((wait_in_line(line)[1] for line in queues), default=0)
    return first(lambda capacity: outcome(queues, capacity)[0] <= max_loss, 1, max(most, 1))


def long_enough(workload: Workload) -> float:
    """Return for how many seconds a workload is simulated to judge it."""
    return max(ENOUGH / workload.mean_rate, 3 * workload.burst_every if workload.burst else 0.0)


def longest_wait(queues: list[Line], share: float = 0.99) -> float:
    """Return the longest wait of all but 1 - ``share`` of the messages, if nothing is ever refused."""
    _, waits = outcome(queues, math.inf)
    return waits[min(math.ceil(share * len(waits)), len(waits)) - 1] if waits else 0.0


def consumers_needed(workload: Workload, max_wait: float, overhead: float, seed: int) -> int | None:
    """
    Return how many servers (see ``Workload.servers``) keep p99 of waiting below ``max_wait`` if nothing is refused.

    None if their number does not matter: each member of a group gets every message.
    """
    if workload.to == "group" and workload.service != "cpu":
        return None
    seconds = long_enough(workload)

    def suffices(servers: int) -> bool:
        grown = _with_servers(workload, servers)
        if grown.utilisation(workload.service_time + overhead) >= 1:
            return False
        return longest_wait(lines(grown, timetable(grown, seconds, seed), overhead)) <= max_wait

    return _doubling(suffices)


def service_time_needed(workload: Workload, max_wait: float, overhead: float, seed: int) -> float | None:
    """Return the longest service time with which p99 of waiting is below ``max_wait``; None if there is none."""
    seconds = long_enough(workload)

    def suffices(percent: int) -> bool:
        faster = replace(workload, service_time=workload.service_time * percent / 100)
        if faster.utilisation(faster.service_time + overhead) >= 1:
            return False
        return longest_wait(lines(faster, timetable(faster, seconds, seed), overhead)) <= max_wait

    slower = first(lambda percent: not suffices(percent), 1, 101)
    return workload.service_time * (slower - 1) / 100 if slower > 1 else None


def first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest number from ``low`` for which ``holds`` is true, as for all larger ones; ``high`` if none."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _with_servers(workload: Workload, servers: int) -> Workload:
    """Return the workload with this many servers. A group's computing consumers are moved to the new processes."""
    if workload.service != "cpu":
        return replace(workload, consumers=servers, processes=1)
    if workload.to == "group":
        return replace(workload, processes=servers, consumers=math.ceil(workload.receivers / servers))
    return replace(workload, processes=servers)


def _doubling(suffices: Callable[[int], bool]) -> int | None:
    high = 1
    while not suffices(high):
        high *= 2
        if high > MOST_CONSUMERS:
            return None
    return first(suffices, high // 2 + 1, high)
