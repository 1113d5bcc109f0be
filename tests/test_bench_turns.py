"""Turns of the bench: who has one in which case, and one small turn of each kind, in a process of its own.

What it measured is not looked at, only that everything arrived once.
"""

from __future__ import annotations

import io
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.cases import CASES
from bench.compare import faults_of, measure, plan, take_turn, workload_table
from bench.processes import Contender
from bench.promises import check
from bench.server import Server
from tests.clusters import Cluster

HERE = Path(sys.executable)
FAST = Contender("fast", "ours", HERE, "core", "upstream")
PURE = Contender("fast-pure", "ours, pure", HERE, "core", "upstream")
MEMORY = Contender("memory", "in memory", HERE)
SIZES = {"pairs": {"fast": 10, "memory": 20}, "rooms": {"fast": 3}, "workers": {"upstream": 5}}


def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_a_round_has_who_takes_part_in_this_order() -> None:
    assert plan([FAST, PURE, MEMORY], list(SIZES), SIZES, ["asyncio"]) == [
        [("pairs", FAST, "asyncio", 10), ("pairs", PURE, "asyncio", 5), ("pairs", MEMORY, "asyncio", 20)],
        # The pure twin is measured in the headline cases; nobody here takes part in the last case.
        [("rooms", FAST, "asyncio", 3)],
    ]


def test_the_second_loop_is_for_the_headlines_unless_it_is_the_only_one() -> None:
    both = plan([FAST], ["pairs", "rooms"], SIZES, ["asyncio", "uvloop"])
    assert [[loop for _, _, loop, _ in turns] for turns in both] == [["asyncio", "uvloop"], ["asyncio"]]
    alone = plan([FAST], ["pairs", "rooms"], SIZES, ["uvloop"])
    assert [[loop for _, _, loop, _ in turns] for turns in alone] == [["uvloop"], ["uvloop"]]


@pytest.mark.parametrize("case", ["encrypted", "shards-2", "crowd-12", "workers", "sync_group", "sync_threads", "site"])
def test_one_turn_of_each_kind(case: str, own_server: Any) -> None:
    urls = [own_server().url for _ in range(CASES[case].shards)]
    line = take_turn((case, FAST, "asyncio", 3), urls, quiet())
    assert "failed" not in line, line["failed"]
    assert line["sent"] > 0
    assert (line["lost"], line["repeated"], line["disordered"]) == (0, 0, 0)
    assert line["server"]["cpu_us"] >= 0
    assert sum(line["server"].values()) > 0


@pytest.mark.parametrize("case", ["cluster-pairs", "cluster-spread", "spread"])
def test_one_turn_on_a_cluster_and_beside_it(case: str, own_server: Any) -> None:
    with ExitStack() as stack:
        nodes = stack.enter_context(Cluster()).urls if CASES[case].cluster else []
        line = take_turn((case, FAST, "asyncio", 3), [own_server().url], quiet(), nodes)
    assert "failed" not in line, line["failed"]
    assert line["sent"] > 0
    assert (line["lost"], line["repeated"], line["disordered"]) == (0, 0, 0)
    assert line["per_cpu_second"] > 0


def test_nothing_is_left_on_the_server(own_server: Any) -> None:
    import redis

    server: Server = own_server()
    line = take_turn(("rooms", FAST, "uvloop", 1), [server.url], quiet())
    assert line.get("lost") == 0
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0


def test_a_turn_that_fails_is_a_line_and_a_fault(own_server: Any) -> None:
    turn = ("pairs", FAST, "asyncio", 1)
    line = take_turn(turn, ["redis://127.0.0.1:1"], quiet())
    assert (line["layer"], line["workload"], line["loop"]) == ("fast", "pairs", "asyncio")
    assert "ConnectionError" in line["failed"] or "refused" in line["failed"]
    assert faults_of([FAST], [line], quiet()) == 1
    assert check([{"round": 1, **line}]) == []


def test_only_our_faults_count() -> None:
    line = {"layer": "upstream", "workload": "pairs", "lost": 1, "repeated": 1, "disordered": 0}
    assert faults_of([FAST], [line], quiet()) == 0
    assert faults_of([FAST], [{**line, "layer": "fast"}], quiet()) == 2


def test_a_report_and_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    turns = plan([FAST, MEMORY], ["pairs"], {"pairs": {"fast": 2, "memory": 2}}, ["asyncio"])
    report = measure([FAST, MEMORY], turns, 2, quiet())
    assert [(line["round"], line["layer"]) for line in report["measurements"]] == [
        (1, "fast"),
        (1, "memory"),
        (2, "fast"),
        (2, "memory"),
    ]
    assert set(report["versions"]) == {"fast", "memory"}
    console = quiet()
    console.print(workload_table("pairs", [FAST, MEMORY], report["measurements"]))
    assert isinstance(console.file, io.StringIO)
    assert "in memory" in console.file.getvalue()
    assert max(map(len, console.file.getvalue().splitlines())) <= 80
