"""
What follows from a sweep: the smallest capacity that keeps the limits, or why none does and what would help.

A capacity keeps a limit if the whole interval of the measurement does, misses it if the whole interval misses it, and
is undecided in between. Judges runs. Does not drive any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from . import queueing
from .measured import Run
from .sweep import Limits, Plan, seconds_needed
from .workload import Workload, timetable

#: The utilisation from which the queues depend more on the run's length than on the capacity.
NEARLY_TOO_SLOW = 0.97


@dataclass(frozen=True)
class Verdict:
    """The result of a run for each limit: True kept, False missed, None undecided."""

    loss: bool | None
    wait: bool | None

    @property
    def keeps(self) -> bool:
        return self.loss is True and self.wait is True

    @property
    def may_keep(self) -> bool:
        return self.loss is not False and self.wait is not False

    def __str__(self) -> str:
        if self.keeps:
            return "keeps both"
        missed = [name for name, kept in (("loss", self.loss), ("wait", self.wait)) if kept is False]
        return f"{missed[0] if len(missed) == 1 else 'both'} too high" if missed else "undecided"


@dataclass
class Advice:
    """
    The advice, and its ``kind``.

    ``kind``: "capacity" (one was found), "unsure" (one may have been found, but the run was too short to tell), "too
    slow", "waits", "larger" (no capacity that was driven is large enough), "unreliable" (the machine could not keep
    up), "incomplete" (the sweep was stopped before it had found one).
    """

    kind: str
    capacity: int | None = None
    #: Sentences for the reader.
    text: list[str] = field(default_factory=list)
    utilisation: float | None = None
    #: How many servers would be enough (see ``Workload.servers``), or the service time that consumers would need, in
    #: seconds.
    servers_needed: int | None = None
    service_time_needed: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether there is a capacity that keeps the limits."""
        return self.kind == "capacity"

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as it is in the JSON of a sweep."""
        return asdict(self)


def judge(run: Run, limits: Limits) -> Verdict:
    """Return a run's verdict on the limits. A run in which nothing arrived has missed both."""
    wait = run.wait_p99
    return Verdict(
        _within(run.loss.low, run.loss.high, limits.max_loss),
        False if wait is None else _within(wait.low, wait.high, limits.max_wait),
    )


def advise_on_paper(workload: Workload, limits: Limits, seed: int) -> Advice | None:
    """Return the advice that needs no measurement: at a utilisation of 1 or more, no capacity helps. Otherwise None."""
    busy = workload.utilisation()
    if busy < 1:
        return None
    return _too_slow(workload, limits, seed, busy, 0.0)


def advise(plan: Plan, runs: Sequence[Run], is_ideal: bool = False) -> Advice:
    """
    Return what follows from the runs of a plan, in the order of their capacities.

    ``is_ideal``: whether the layer needs the same capacity as an ideal queue. If capacities of the plan have no run,
    the sweep was stopped, and nothing follows from what is missing.
    """
    reliable = [run for run in runs if not run.doubts]
    missing = set(plan.capacities) - {run.capacity for run in runs}
    if not reliable:
        advice = Advice(
            "unreliable", text=["This machine could not keep up in any run, so there is no result.", *runs[0].doubts]
        )
        return _stopped(advice, plan, missing)
    limits = plan.limits
    busy = median(run.utilisation for run in reliable)
    verdicts = [(run, judge(run, limits)) for run in reliable]
    keeping = [run for run, verdict in verdicts if verdict.keeps]
    undecided = [run for run, verdict in verdicts if verdict.may_keep]
    likely = [run for run in undecided if _seems_to_keep(run, limits)]
    maybe = next(iter(likely or undecided), None)
    if busy >= 1:
        advice = _too_slow(plan.workload, limits, plan.seed, busy, _slower(plan.workload, reliable))
    elif keeping:
        advice = _found(plan, reliable, keeping, likely[0], is_ideal)
        if busy >= NEARLY_TOO_SLOW:
            advice.text.append(f"Utilisation is {busy:.0%}: with a little more load, no capacity is enough.")
    elif maybe is not None:
        advice = Advice("unsure", maybe.capacity, [_measured(maybe), _longer(plan, maybe)])
    elif missing:
        advice = Advice("incomplete", text=["None of the capacities measured so far keeps both limits."])
    else:
        advice = _none(plan, verdicts)
    advice.utilisation = busy
    if len(reliable) < len(runs):
        ignored = len(runs) - len(reliable)
        advice.text.append(f"{ignored} of {len(runs)} runs {'was' if ignored == 1 else 'were'} ignored as unreliable.")
    return _stopped(advice, plan, missing)


def _found(plan: Plan, reliable: Sequence[Run], keeping: Sequence[Run], likely: Run, is_ideal: bool) -> Advice:
    """Return the advice if runs keep both limits; ``likely`` is the smallest capacity's run that seems to."""
    smallest = keeping[0]
    lasting = _in_the_long_run(plan, reliable) if is_ideal else 0
    kept = next((run for run in keeping if run.capacity >= lasting), smallest)
    advice = Advice("capacity", kept.capacity, [_measured(kept)])
    if smallest.capacity < kept.capacity:
        advice.text.append(
            f"{smallest.capacity} kept both limits too, but over {queueing.ENOUGH:,} messages an ideal queue needs "
            f"{lasting}."
        )
    elif lasting > kept.capacity:
        advice.text.append(
            f"Over {queueing.ENOUGH:,} messages, more than this run sent, an ideal queue needs {lasting}: use that to "
            "be on the safe side."
        )
    elif likely.capacity < kept.capacity:
        advice.text.append(f"{likely.capacity} may be enough as well; a longer run (--duration) would tell.")
    return advice


def _stopped(advice: Advice, plan: Plan, missing: set[int]) -> Advice:
    """Say what a stopped sweep has not measured."""
    if missing:
        measured = len(set(plan.capacities) - missing)
        sentence = f"Stopped after {measured} of {len(plan.capacities)} capacities"
        if advice.capacity is not None and min(missing) < advice.capacity:
            sentence += ": a smaller one may be enough"
        advice.text.append(f"{sentence}.")
    return advice


def _seems_to_keep(run: Run, limits: Limits) -> bool:
    wait = run.wait_p99
    return run.loss.estimate <= limits.max_loss and wait is not None and wait.estimate <= limits.max_wait


def _within(low: float, high: float, limit: float) -> bool | None:
    return True if high <= limit else False if low > limit else None


def _measured(run: Run) -> str:
    wait = run.wait_p99
    waited = "" if wait is None else f"; p99 of the waiting time is {spell(wait.estimate)} (at most {spell(wait.high)})"
    lost = f"{run.loss.estimate:.3%} of the messages were lost" if run.loss.estimate else "no message was lost"
    return f"With {run.capacity}, {lost} (at most {run.loss.high:.3%}){waited}."


def _longer(plan: Plan, run: Run) -> str:
    verdict = judge(run, plan.limits)
    unsure = [name for name, kept in (("loss", verdict.loss), ("wait", verdict.wait)) if kept is None]
    # An interval shrinks with the square root of the sample size.
    seconds = max(4 * plan.seconds, seconds_needed(plan.workload, plan.limits.max_loss))
    return f"The run was too short to be sure of the {' and the '.join(unsure)}: try --duration {seconds:.0f}s."


def _slower(workload: Workload, runs: Sequence[Run]) -> float:
    """Return the seconds that a message takes beyond its service time, as measured."""
    slower = median(run.service_time for run in runs) - workload.service_time
    return max(slower, 0.0) + median(run.fetch_time for run in runs)


def _too_slow(workload: Workload, limits: Limits, seed: int, busy: float, slower: float) -> Advice:
    arriving = workload.mean_rate * workload.copies
    text = (
        f"No capacity helps: {_servers(workload, workload.servers)} at {spell(busy * workload.servers / arriving)} a "
        f"message can take {arriving / busy:.4g} a second, and {arriving:.4g} arrive (utilisation {busy:.0%}). Every "
        "queue fills."
    )
    return _with_remedy(Advice("too slow", text=[text], utilisation=busy), workload, limits, seed, slower)


def _none(plan: Plan, verdicts: Sequence[tuple[Run, Verdict]]) -> Advice:
    limits, runs = plan.limits, [run for run, _ in verdicts]
    enough = next((run for run, verdict in verdicts if verdict.loss is not False), None)
    overhead = median(run.fetch_time for run in runs)
    queues = queueing.lines(plan.workload, plan.times(), overhead)
    if enough is None and queueing.longest_wait(queues) <= limits.max_wait:
        ideal = max(queueing.smallest_capacity(queues, limits.max_loss), 2 * runs[-1].capacity)
        text = (
            f"Even {runs[-1].capacity} loses too much, and no larger capacity has a reliable run: try --capacities "
            f"{ideal}."
        )
        return Advice("larger", text=[text])
    if enough is None:
        text = f"Capacities up to {runs[-1].capacity} lose too much, and with larger ones messages would wait too long."
    elif enough.wait_p99 is None:
        text = f"With {enough.capacity}, nothing arrives in time."
    else:
        lost = "nothing is refused" if not enough.loss.estimate else f"only {enough.loss.estimate:.3%} are lost"
        text = (
            f"With {enough.capacity}, {lost}, but p99 of the waiting time is {spell(enough.wait_p99.estimate)}; the "
            f"limit is {spell(limits.max_wait)}. Smaller capacities lose more, and larger ones wait as long."
        )
    slower = _slower(plan.workload, runs)
    return _with_remedy(Advice("waits", text=[text]), plan.workload, limits, plan.seed, slower)


def _in_the_long_run(plan: Plan, runs: Sequence[Run]) -> int:
    """Return the capacity that an ideal queue needs for more messages than the run had."""
    workload = plan.workload
    times = timetable(workload, max(queueing.long_enough(workload), plan.seconds), plan.seed)
    queues = queueing.lines(workload, times, median(run.fetch_time for run in runs))
    return queueing.smallest_capacity(queues, plan.limits.max_loss)


def _with_remedy(advice: Advice, workload: Workload, limits: Limits, seed: int, slower: float) -> Advice:
    """Add what would help: more consumers, or faster ones. ``slower``: additional seconds that each message takes."""
    advice.servers_needed = queueing.consumers_needed(workload, limits.max_wait, slower, seed)
    advice.service_time_needed = queueing.service_time_needed(workload, limits.max_wait, slower, seed)
    if advice.servers_needed is not None:
        spread = ", with the same messages spread over them" if workload.to == "specific" else ""
        advice.text.append(
            f"Enough: {_servers(workload, advice.servers_needed)} instead of {workload.servers}{spread}."
        )
    elif workload.to == "group":
        advice.text.append("More consumers do not help, because each member of a group gets every message.")
    if advice.service_time_needed is not None:
        advice.text.append(
            f"Or: at most {spell(advice.service_time_needed)} for each message with the consumers you have."
            if advice.servers_needed is not None
            else f"Enough: at most {spell(advice.service_time_needed)} for each message."
        )
    return advice


def _servers(workload: Workload, number: int) -> str:
    return counted(number, "process" if workload.service == "cpu" else "consumer")


def counted(number: int, what: str) -> str:
    """Return a number of things as text."""
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"


def spell(seconds: float) -> str:
    """Return a time as text, with three digits."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"
