"""What `tune` says on paper, against queueing theory: no server, no clock."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from channels_redis_fast.cli.tune import queueing
from channels_redis_fast.cli.tune.advice import advise, advise_on_paper, judge
from channels_redis_fast.cli.tune.estimate import effective, quantile_of, share_of, wilson
from channels_redis_fast.cli.tune.measured import Estimate, Run
from channels_redis_fast.cli.tune.sweep import Limits, Plan, default_seconds, ladder, seconds_needed
from channels_redis_fast.cli.tune.workload import Workload, timetable
from tests.cli.theory import erlang_b, md1k_loss

#: Far beyond chance: seeds are fixed, but nobody should have to look for a lucky one.
Z = 4.0


@pytest.mark.parametrize("utilisation", [0.5, 0.9, 1.2])
@pytest.mark.parametrize("capacity", [1, 2, 5, 12])
def test_loss_is_that_of_md1k(utilisation: float, capacity: int) -> None:
    workload = Workload(service_time=0.01, rate=100 * utilisation)
    waits, _ = queueing.wait_in_line(queueing.lines(workload, timetable(workload, 600, seed=7))[0], capacity)
    lost = [float(wait is None) for wait in waits]
    _, low, high = share_of(lost, Z)
    # K counts who is served as well.
    assert low <= md1k_loss(utilisation, capacity + 1) <= high


@pytest.mark.parametrize("servers", [1, 3, 8])
def test_without_room_to_wait_loss_is_erlangs(servers: int) -> None:
    load = 0.8 * servers
    workload = Workload(service_time=0.01, rate=100 * load, consumers=servers)
    waits, most = queueing.wait_in_line(queueing.lines(workload, timetable(workload, 300, seed=3))[0], 0)
    _, low, high = share_of([float(wait is None) for wait in waits], Z)
    assert most == 0
    assert low <= erlang_b(load, servers) <= high


def test_mean_wait_is_that_of_pollaczek_and_khinchine() -> None:
    workload = Workload(service_time=0.01, rate=60)
    _, waits = queueing.outcome(queueing.lines(workload, timetable(workload, 2000, seed=5)), math.inf)
    assert fmean(waits) == pytest.approx(0.6 * 0.01 / (2 * (1 - 0.6)), rel=0.05)


@pytest.mark.parametrize(("burst", "servers"), [(30, 1), (30, 4), (3, 4)])
def test_a_burst_at_once_needs_what_cannot_be_served_at_once(burst: int, servers: int) -> None:
    workload = Workload(service_time=0.01, burst=burst, burst_every=5, consumers=servers)
    queues = queueing.lines(workload, timetable(workload, 50, seed=1))
    assert queueing.smallest_capacity(queues, 0) == max(burst - servers, 1)


def test_a_burst_that_takes_time_needs_less_room_by_what_is_served_meanwhile() -> None:
    # One every 2 ms from 0 to 38 ms; taken at 0, 20, 40, ...: behind the last, 18 wait.
    workload = Workload(service_time=0.02, burst=20, burst_every=2, burst_length=0.04)
    queues = queueing.lines(workload, timetable(workload, 20, seed=1))
    assert queueing.smallest_capacity(queues, 0) == 18
    assert queueing.longest_wait(queues, 1.0) == pytest.approx(19 * 0.02 - 0.038)


def test_where_the_oldest_gives_way_as_many_are_lost_and_the_others_wait_less() -> None:
    workload = Workload(service_time=0.01, rate=110)
    queues = queueing.lines(workload, timetable(workload, 200, seed=2))
    newest, waits = queueing.outcome(queues, 5)
    oldest, shorter = queueing.outcome(queues, 5, oldest_gives_way=True)
    assert oldest == pytest.approx(newest, rel=0.01)
    assert fmean(shorter) < fmean(waits)


def test_consumers_that_compute_are_one_server_in_each_process() -> None:
    workload = Workload(service_time=0.01, rate=100, to="group", consumers=4, processes=2, service="cpu")
    (line,) = queueing.lines(workload, timetable(workload, 1, seed=1))
    assert (workload.servers, workload.utilisation(), line.servers) == (2, 4.0, 1)
    waiting = replace(workload, service="sleep")
    assert (waiting.servers, waiting.utilisation()) == (8, 1.0)
    # Each process has a queue of its own.
    specific = replace(workload, to="specific")
    assert len(queueing.lines(specific, timetable(specific, 1, seed=1))) == 2


def test_specific_channels_are_queues_of_their_own() -> None:
    workload = Workload(service_time=0.01, rate=100, to="specific", consumers=5)
    times = timetable(workload, 10, seed=1)
    queues = queueing.lines(workload, times)
    assert len(queues) == 5
    assert sorted(due for line in queues for due in line.dues) == list(times.dues)


@pytest.mark.parametrize("rate", [250, 950])
def test_consumers_that_are_needed(rate: int) -> None:
    workload = Workload(service_time=0.01, rate=rate)
    needed = queueing.consumers_needed(workload, max_wait=0.02, overhead=0, seed=1)
    assert needed is not None
    seconds = 20_000 / rate

    def wait(consumers: int) -> float:
        grown = replace(workload, consumers=consumers)
        return queueing.longest_wait(queueing.lines(grown, timetable(grown, seconds, 1)))

    assert replace(workload, consumers=needed).utilisation() < 1
    assert wait(needed) <= 0.02
    assert replace(workload, consumers=needed - 1).utilisation() >= 1 or wait(needed - 1) > 0.02


def test_of_a_group_only_faster_consumers_help() -> None:
    workload = Workload(service_time=0.02, rate=100, to="group", consumers=3)
    assert queueing.consumers_needed(workload, 0.1, 0, seed=1) is None
    fast = queueing.service_time_needed(workload, 0.1, 0, seed=1)
    assert fast is not None
    assert 0 < fast < 0.01
    # A quarter of a millisecond for each message is lost on the way.
    slower = queueing.service_time_needed(workload, 0.1, 0.00025, seed=1)
    assert slower is not None
    assert slower < fast


def test_a_seed_gives_the_same_times_whatever_the_consumers_do() -> None:
    workload = Workload(service_time=0.01, rate=50, burst=7, burst_every=2, burst_length=0.5)
    times = timetable(workload, 20, seed=4)
    assert timetable(replace(workload, service_time=0.3), 20, seed=4).dues == times.dues
    assert timetable(workload, 20, seed=5).dues != times.dues
    assert list(times.dues) == sorted(times.dues)
    assert times.dues[-1] < 20
    expected = 20 * workload.mean_rate
    assert abs(len(times) - expected) < 4 * expected**0.5


def test_regular_messages_come_evenly() -> None:
    times = timetable(Workload(service_time=0.01, rate=4, arrivals="regular"), 2, seed=1)
    assert list(times.dues) == pytest.approx([0.125 + 0.25 * number for number in range(8)])


def test_exponential_service_times_have_the_mean() -> None:
    works = timetable(Workload(service_time=0.01, rate=1000, service_spread="exponential"), 20, seed=1).works
    assert fmean(works) == pytest.approx(0.01, rel=0.05)


# Estimates.


def test_wilson_is_what_the_books_say() -> None:
    # Nothing of 10: from 0 to z² / (n + z²); 81 of 263 is the example of Newcombe (1998).
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_losses_in_clusters_are_less_sure() -> None:
    alone = [float(number % 10 == 0) for number in range(2000)]
    clustered = [float(number < 200) for number in range(2000)]
    assert effective(alone) == 2000
    assert effective(clustered) < 100
    assert share_of(alone)[0] == share_of(clustered)[0] == 0.1
    assert share_of(clustered)[2] > share_of(alone)[2] > 0.1


def test_quantile_and_its_interval() -> None:
    middle, low, high = quantile_of([float(7 * number % 1000) for number in range(1000)], 0.9)
    assert middle == 899
    assert low < 899 < high
    assert quantile_of([3.0], 0.99) == (3.0, 3.0, 3.0)


def test_a_run_is_as_long_as_its_limit_needs() -> None:
    workload = Workload(service_time=0.01, rate=100)
    needed = seconds_needed(workload, 0.001)
    assert wilson(0, 0.9 * 100 * needed)[1] < 0.001
    assert default_seconds(workload, 0.001) == math.ceil(needed)
    assert default_seconds(workload, 0.5) == 10
    assert default_seconds(workload, 1e-6) == 120
    assert default_seconds(Workload(service_time=0.01, burst=5, burst_every=6), 0.5) == 60


def test_the_ladder_lies_around_what_an_ideal_queue_needs() -> None:
    workload = Workload(service_time=0.02, burst=20, burst_every=2, burst_length=0.04)
    times = timetable(workload, 20, seed=1)
    capacities = ladder(workload, Limits(0.0, 1.0), times, current=100)
    assert {14, 18, 22, 27, 36, 100} <= set(capacities)
    assert capacities == sorted(set(capacities))
    assert capacities[0] == 2
    # Two shards hold twice as many.
    assert 9 in ladder(workload, Limits(0.0, 1.0), times, current=None, shards=2)


# Advice, from made-up runs.

LIMITS = Limits(max_loss=0.01, max_wait=0.5)


def run_of(capacity: int, loss: tuple[float, float, float], p99: tuple[float, float, float], **more: Any) -> Run:
    numbers: dict[str, Any] = {
        "seconds": 60.0, "offered": 3000, "received": 2990, "refused": 10, "dropped": 0, "expired": 0, "failed": 0,
        "unaccounted": 0, "wait_p50": 0.01, "wait_p95": 0.02, "wait_max": 1.0, "late": 0, "latest": 0.0,
        "service_time": 0.02, "fetch_time": 0.0005, "utilisation": 0.8, "cpu_sender": 1.0, "cpu_consumers": 1.0,
    }  # fmt: skip
    return Run(capacity=capacity, loss=Estimate(*loss), wait_p99=Estimate(*p99), **{**numbers, **more})


def plan_of(*capacities: int, **more: Any) -> Plan:
    return Plan(Workload(**{"service_time": 0.02, "rate": 40.0, **more}), LIMITS, capacities, 60.0, 1)


LOSES = {"loss": (0.1, 0.08, 0.12), "p99": (0.1, 0.09, 0.11)}
KEEPS = {"loss": (0.001, 0.0, 0.005), "p99": (0.2, 0.19, 0.21)}
WAITS = {"loss": (0.0, 0.0, 0.001), "p99": (2.0, 1.9, 2.1)}
UNSURE = {"loss": (0.005, 0.001, 0.02), "p99": (0.2, 0.19, 0.21)}


def test_the_smallest_capacity_that_keeps_both_limits_is_recommended() -> None:
    advice = advise(plan_of(4, 8, 16), [run_of(4, **LOSES), run_of(8, **KEEPS), run_of(16, **KEEPS)])
    assert (advice.kind, advice.capacity, advice.is_met) == ("capacity", 8, True)


def test_a_capacity_of_which_one_cannot_be_sure_is_not_recommended() -> None:
    advice = advise(plan_of(4, 8, 16), [run_of(4, **LOSES), run_of(8, **UNSURE), run_of(16, **KEEPS)])
    assert (advice.kind, advice.capacity) == ("capacity", 16)
    assert "8 may be enough" in advice.text[1]
    # One that seems to miss a limit is not worth a word.
    unlikely = {**UNSURE, "loss": (0.015, 0.005, 0.03)}
    advice = advise(plan_of(4, 8, 16), [run_of(4, **LOSES), run_of(8, **unlikely), run_of(16, **KEEPS)])
    assert (advice.capacity, len(advice.text)) == (16, 1)
    advice = advise(plan_of(8, 16), [run_of(8, **unlikely), run_of(16, **UNSURE)])
    assert (advice.kind, advice.capacity) == ("unsure", 16)


def test_a_run_that_was_too_short_says_how_long_it_should_be() -> None:
    advice = advise(plan_of(4, 8), [run_of(4, **LOSES), run_of(8, **UNSURE)])
    assert (advice.kind, advice.capacity, advice.is_met) == ("unsure", 8, False)
    assert "--duration 240s" in advice.text[1]


def test_consumers_that_are_too_slow() -> None:
    runs = [run_of(capacity, **KEEPS, utilisation=1.25, service_time=0.02) for capacity in (4, 8)]
    advice = advise(plan_of(4, 8, rate=62.5), runs)
    assert (advice.kind, advice.capacity, advice.is_met) == ("too slow", None, False)
    assert "125%" in advice.text[0]
    assert advice.servers_needed == 2
    assert "2 consumers instead of 1" in advice.text[1]


def test_long_waits_although_nothing_is_refused() -> None:
    plan = plan_of(4, 100, burst=100, rate=0.0, burst_every=10.0)
    advice = advise(plan, [run_of(4, **LOSES), run_of(100, **WAITS)])
    assert (advice.kind, advice.capacity) == ("waits", None)
    assert "With 100, nothing is refused, but p99 of the waiting time is 2 s" in advice.text[0]
    # 100 at once in half a second, 20.5 ms each.
    assert advice.servers_needed == 4


def test_members_of_a_group_have_to_be_faster() -> None:
    advice = advise(plan_of(4, to="group", rate=80.0), [run_of(4, **LOSES, utilisation=1.6)])
    assert (advice.kind, advice.servers_needed) == ("too slow", None)
    assert "ore consumers do not help" in advice.text[1]
    assert advice.service_time_needed is not None
    assert 0.005 < advice.service_time_needed < 0.0125


def test_larger_capacities_are_asked_for_where_they_would_help() -> None:
    advice = advise(plan_of(2, 4, burst=20, rate=0.0), [run_of(2, **LOSES), run_of(4, **LOSES)])
    assert (advice.kind, advice.capacity) == ("larger", None)
    assert "--capacities 19" in advice.text[0]


def test_disturbed_runs_say_nothing() -> None:
    disturbed = run_of(8, **KEEPS, doubts=["The machine was busy."])
    assert advise(plan_of(8), [disturbed]).kind == "unreliable"
    advice = advise(plan_of(8, 16), [disturbed, run_of(16, **KEEPS)])
    assert (advice.kind, advice.capacity) == ("capacity", 16)
    assert "1 of 2 runs" in advice.text[-1]


def test_more_messages_than_were_driven_may_need_more() -> None:
    both = [run_of(4, **KEEPS), run_of(8, **KEEPS)]
    assert len(advise(plan_of(4, 8), [run_of(4, **LOSES), both[1]], is_ideal=True).text) == 1
    assert "safe side" in advise(plan_of(4), both[:1], is_ideal=True).text[1]
    # What was measured to be enough for all of them is recommended, and not what was enough for so few.
    advice = advise(plan_of(4, 8), both, is_ideal=True)
    assert advice.capacity == 8
    assert advice.text[1].startswith("4 kept both limits too, but over 20,000 messages an ideal queue needs ")


def test_a_utilisation_of_one_is_hopeless_on_paper() -> None:
    assert advise_on_paper(Workload(service_time=0.02, rate=49.0), LIMITS, 1) is None
    advice = advise_on_paper(Workload(service_time=20.0, rate=40.0), LIMITS, 1)
    assert advice is not None
    assert (advice.kind, advice.capacity, advice.utilisation) == ("too slow", None, 800.0)
    assert "1 consumer at 20 s a message can take 0.05 a second, and 40 arrive" in advice.text[0]
    assert f"Enough: {advice.servers_needed} consumers instead of 1." in advice.text
    assert advice.servers_needed is not None
    assert advice.servers_needed >= 800
    # A group's consumers each get every message.
    advice = advise_on_paper(Workload(service_time=0.02, rate=50.0, to="group", consumers=3), LIMITS, 1)
    assert advice is not None
    assert "More consumers do not help" in advice.text[1]
    assert advice.text[2].startswith("Enough: at most ")


def test_a_sweep_that_was_stopped() -> None:
    plan = plan_of(4, 8, 16, 32)
    advice = advise(plan, [run_of(16, **KEEPS)])
    assert (advice.kind, advice.capacity) == ("capacity", 16)
    assert advice.text[-1] == "Stopped after 1 of 4 capacities: a smaller one may be enough."
    advice = advise(plan, [run_of(4, **LOSES), run_of(8, **KEEPS)])
    assert advice.text[-1] == "Stopped after 2 of 4 capacities."
    # Nothing is said of what larger ones would do.
    advice = advise(plan, [run_of(4, **LOSES), run_of(8, **WAITS)])
    assert (advice.kind, advice.capacity, advice.is_met) == ("incomplete", None, False)
    assert advice.text == [
        "None of the capacities measured so far keeps both limits.",
        "Stopped after 2 of 4 capacities.",
    ]


def test_verdicts() -> None:
    assert str(judge(run_of(1, **KEEPS), LIMITS)) == "keeps both"
    assert str(judge(run_of(1, **LOSES), LIMITS)) == "loss too high"
    assert str(judge(run_of(1, **WAITS), LIMITS)) == "wait too high"
    assert str(judge(run_of(1, **UNSURE), LIMITS)) == "undecided"
    assert str(judge(run_of(1, loss=LOSES["loss"], p99=WAITS["p99"]), LIMITS)) == "both too high"
