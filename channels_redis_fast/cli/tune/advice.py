"""
What follows from a sweep: the smallest capacity that keeps the limits, or why none does and what would help.

A capacity counts as keeping a limit when the whole interval of the measurement does, as missing it when the whole
interval does not, and is undecided in between. Judges runs; drives none.
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

#: Utilisation from which on the queues follow the run's length more than the capacity.
NEARLY_TOO_SLOW = 0.97


@dataclass(frozen=True)
class Verdict:
    """What a run says of each limit: True kept, False missed, None undecided."""

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
        if missed:
            return f"{' and '.join(missed)} too high"
        return "undecided"


@dataclass
class Advice:
    """
    ``kind``: "capacity" (there it is), "unsure" (there it may be: the run was too short to tell), "too slow", "waits",
    "larger" (none that was driven is large enough), "unreliable" (the machine could not keep up).
    """

    kind: str
    capacity: int | None = None
    #: Sentences for a reader.
    text: list[str] = field(default_factory=list)
    utilisation: float | None = None
    #: How many would be enough (see ``Workload.servers``), or how fast each consumer would have to be, in seconds.
    servers_needed: int | None = None
    service_time_needed: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether there is a capacity that keeps the limits."""
        return self.kind == "capacity"

    def as_dict(self) -> dict[str, Any]:
        """Return the advice as the JSON of a sweep has it."""
        return asdict(self)


def judge(run: Run, limits: Limits) -> Verdict:
    """Return what a run says of the limits. One that nothing arrived in has missed both."""
    wait = run.wait_p99
    return Verdict(
        _within(run.loss.low, run.loss.high, limits.max_loss),
        False if wait is None else _within(wait.low, wait.high, limits.max_wait),
    )


def advise(plan: Plan, runs: Sequence[Run], is_ideal: bool = False) -> Advice:
    """Return what follows from the runs of a plan. ``is_ideal``: whether an ideal queue needs what the layer needs."""
    reliable = [run for run in runs if not run.doubts]
    if not reliable:
        return Advice(
            "unreliable", text=["This machine could not keep up in any run, so nothing follows.", *runs[0].doubts]
        )
    limits = plan.limits
    busy = median(run.utilisation for run in reliable)
    verdicts = [(run, judge(run, limits)) for run in reliable]
    kept = next((run for run, verdict in verdicts if verdict.keeps), None)
    undecided = [run for run, verdict in verdicts if verdict.may_keep]
    likely = [run for run in undecided if _seems_to_keep(run, limits)]
    maybe = next(iter(likely or undecided), None)
    if busy >= 1:
        advice = _too_slow(plan, reliable, busy)
    elif kept is not None:
        advice = Advice("capacity", kept.capacity, [_measured(kept)])
        if likely[0].capacity < kept.capacity:
            advice.text.append(f"{likely[0].capacity} may do as well: a longer run (--duration) would tell.")
        lasting = _in_the_long_run(plan, reliable) if is_ideal else 0
        if lasting > kept.capacity:
            advice.text.append(
                f"An ideal queue would need {lasting} over {queueing.ENOUGH:,} messages, more than this run has seen: "
                "take that to be on the safe side."
            )
        if busy >= NEARLY_TOO_SLOW:
            advice.text.append(f"The consumers are busy {busy:.0%} of the time: a little more, and no capacity helps.")
    elif maybe is not None:
        advice = Advice("unsure", maybe.capacity, [_measured(maybe), _longer(plan, maybe)])
    else:
        advice = _none(plan, verdicts)
    advice.utilisation = busy
    if len(reliable) < len(runs):
        advice.text.append(f"{len(runs) - len(reliable)} of {len(runs)} runs were left out as unreliable.")
    return advice


def _seems_to_keep(run: Run, limits: Limits) -> bool:
    wait = run.wait_p99
    return run.loss.estimate <= limits.max_loss and wait is not None and wait.estimate <= limits.max_wait


def _within(low: float, high: float, limit: float) -> bool | None:
    return True if high <= limit else False if low > limit else None


def _measured(run: Run) -> str:
    wait = run.wait_p99
    waited = "" if wait is None else f", and p99 of waiting is {spell(wait.estimate)} (at most {spell(wait.high)})"
    return f"With {run.capacity}, {run.loss.estimate:.3%} are lost (at most {run.loss.high:.3%}){waited}."


def _longer(plan: Plan, run: Run) -> str:
    verdict = judge(run, plan.limits)
    unsure = [name for name, kept in (("loss", verdict.loss), ("wait", verdict.wait)) if kept is None]
    # An interval shrinks with the root of what it is taken from.
    seconds = max(4 * plan.seconds, seconds_needed(plan.workload, plan.limits.max_loss))
    return f"The run was too short to be sure of the {' and the '.join(unsure)}: try --duration {seconds:.0f}s."


def _too_slow(plan: Plan, runs: Sequence[Run], busy: float) -> Advice:
    workload = plan.workload
    text = (
        f"No capacity helps: the consumers are too slow. {workload.mean_rate * workload.copies:g} messages a second to "
        f"{_servers(workload, workload.servers)} that take {spell(median(run.cycle for run in runs))} for each are "
        f"{busy:.0%} of what is possible; whatever the capacity, it fills."
    )
    return _with_remedy(Advice("too slow", text=[text]), plan, runs)


def _none(plan: Plan, verdicts: Sequence[tuple[Run, Verdict]]) -> Advice:
    limits, runs = plan.limits, [run for run, _ in verdicts]
    enough = next((run for run, verdict in verdicts if verdict.loss is not False), None)
    overhead = median(run.fetch_time for run in runs)
    queues = queueing.lines(plan.workload, plan.times(), overhead)
    if enough is None and queueing.longest_wait(queues) <= limits.max_wait:
        ideal = max(queueing.smallest_capacity(queues, limits.max_loss), 2 * runs[-1].capacity)
        text = (
            f"Even with {runs[-1].capacity} too much is lost; none larger has a reliable run: try --capacities {ideal}."
        )
        return Advice("larger", text=[text])
    if enough is None:
        text = f"With up to {runs[-1].capacity} too much is lost, and with more the waiting would be too long."
    elif enough.wait_p99 is None:
        text = f"With {enough.capacity} nothing arrives in time."
    else:
        lost = "Nothing is refused" if not enough.loss.estimate else f"Only {enough.loss.estimate:.3%} are lost"
        text = (
            f"{lost} with {enough.capacity}, but p99 of waiting is {spell(enough.wait_p99.estimate)} and may be "
            f"{spell(limits.max_wait)}; what is smaller loses more, what is larger waits as long."
        )
    return _with_remedy(Advice("waits", text=[text]), plan, runs)


def _in_the_long_run(plan: Plan, runs: Sequence[Run]) -> int:
    """Return the capacity that an ideal queue needs for more messages than were driven."""
    workload = plan.workload
    times = timetable(workload, max(queueing.long_enough(workload), plan.seconds), plan.seed)
    queues = queueing.lines(workload, times, median(run.fetch_time for run in runs))
    return queueing.smallest_capacity(queues, plan.limits.max_loss)


def _with_remedy(advice: Advice, plan: Plan, runs: Sequence[Run]) -> Advice:
    """Add what would help: more consumers, or faster ones."""
    workload, wanted = plan.workload, plan.limits.max_wait
    overhead = median(run.fetch_time for run in runs)
    # As they were measured, not as they were meant to be.
    slower = max(median(run.service_time for run in runs) - workload.service_time, 0.0) + overhead
    advice.servers_needed = queueing.consumers_needed(workload, wanted, slower, plan.seed)
    advice.service_time_needed = queueing.service_time_needed(workload, wanted, slower, plan.seed)
    help_by = []
    if advice.servers_needed is not None:
        enough = _servers(workload, advice.servers_needed)
        spread = ", with the same messages spread over them," if workload.to == "specific" else ""
        help_by.append(f"{enough} in place of {workload.servers}{spread} would do")
    elif workload.to == "group":
        help_by.append("more consumers do not help, since each of the group gets every message")
    if advice.service_time_needed is not None:
        help_by.append(f"with at most {spell(advice.service_time_needed)} for a message it would work as it is")
    if help_by:
        sentence = "; ".join(help_by) + "."
        advice.text.append(sentence[0].upper() + sentence[1:])
    return advice


def _servers(workload: Workload, number: int) -> str:
    return counted(number, "process" if workload.service == "cpu" else "consumer")


def counted(number: int, what: str) -> str:
    """Return a number of things for a reader."""
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"


def spell(seconds: float) -> str:
    """Return a time for a reader, with three digits."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"
