"""The bench of whole sites counts honestly: one small run of each kind, with real servers and clients.

How long anything takes is not looked at.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import inprocess, sockets
from bench.cases import CASES
from bench.contender import BACKENDS, settings_for
from bench.demo import socket_rows, socket_table
from bench.dispatch import frame, number_of, split
from bench.processes import Contender, contenders, result_of
from bench.sizes import CHECK, FULL

SITES = [name for name, case in CASES.items() if case.kind == "sockets"]
CONSUMERS = [name for name, case in CASES.items() if case.kind == "consumers"]


def measure(layer: str, case: str, count: int, url: str) -> dict[str, Any]:
    options = ["--layer", layer, "--workload", case, "--n", str(count), "--url", url]
    return result_of(Path(sys.executable), "bench.contender", options, 60)


def test_a_name_says_layer_and_dispatch() -> None:
    assert split("fast") == ("fast", "channels")
    assert split("fast-pubsub") == ("fast-pubsub", "channels")
    assert split("fast-pubsub-direct") == ("fast-pubsub", "direct")
    assert split("floor-tasks-direct") == ("floor-tasks", "direct")
    for layer in BACKENDS:
        assert BACKENDS[layer] == BACKENDS[split(layer)[0]]
    assert settings_for("floor-tasks-direct", [], "prefix") == settings_for("floor-tasks", [], "prefix")


@pytest.mark.parametrize("number", [0, 7, 12345])
def test_a_frame_carries_its_number(number: int) -> None:
    text = frame(number)["text"]
    assert number_of(text) == number_of(text.encode()) == number


@pytest.mark.parametrize("case", CONSUMERS)
@pytest.mark.parametrize("layer", ["fast", "fast-direct", "floor-tasks-direct"])
def test_consumers_with_queues(layer: str, case: str, own_server: Any) -> None:
    line = measure(layer, case, 3, own_server().url)
    assert line["sent"] > 0
    assert (line["lost"], line["repeated"], line["disordered"]) == (0, 0, 0)
    metric = CASES[case].metric
    assert metric in line or metric in line["extra"]


async def test_a_client_that_gets_a_frame_twice_shows_it() -> None:
    """The counting is of what came out of the consumer, not of what was put in."""
    boxes = inprocess.inboxes_of([client := inprocess.Client(_silent)])
    assert boxes[0].numbers == []
    for number in (1, 2, 2):
        await client._send({"type": "websocket.send", "text": frame(number)["text"]})
    [box] = inprocess.inboxes_of([client])
    assert (box.distinct, len(box.numbers)) == (2, 3)
    await client.leave()


async def _silent(_scope: Any, receive: Any, _send: Any) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


@pytest.mark.parametrize("case", ["sockets-200", "sockets-daphne", "sockets-granian"])
def test_a_site_with_real_clients(case: str, own_server: Any) -> None:
    pytest.importorskip("picows")
    pytest.importorskip(CASES[case].parameters["server"])
    line = measure("fast-direct", case, 3, own_server().url)
    assert line["sent"] == 3 * CASES[case].parameters["clients"]
    assert (line["lost"], line["repeated"], line["disordered"]) == (0, 0, 0)
    assert 0 < line["p50_us"] <= line["p99_us"]
    assert set(line["extra"]) == {"cpu_per_frame_us", "clients_busy"}


def test_the_hand_written_loop_delivers(own_server: Any) -> None:
    pytest.importorskip("picows")
    line = measure("fast-pubsub-loop", "sockets-200", 3, own_server().url)
    assert (line["received"], line["lost"], line["repeated"], line["disordered"]) == (600, 0, 0, 0)


async def test_a_server_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sockets.SERVERS, "broken", lambda _port, _loop: ["bench.no_such_server"])
    with pytest.raises(RuntimeError, match="ended with code 1 before"):
        async with sockets.site("broken", {}, "asyncio"):
            pass


async def test_clients_that_are_late_end_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        heard, heard_at = 0, 0.0

        async def until_heard(self, count: int) -> None:
            await asyncio.Event().wait()

    class Layer:
        async def group_send(self, group: str, message: dict[str, Any]) -> None:
            """Nobody gets it."""

    monkeypatch.setattr(sockets, "QUIET", 0.01)
    with pytest.raises(asyncio.TimeoutError):
        await sockets.broadcast(Layer(), Silent(), 0)  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_the_time_of_a_process_is_told_with_its_children() -> None:
    script = "import subprocess, sys, time; sum(range(10**7)); print(flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}])"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", parent], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout is not None
        process.stdout.readline()
        alone = sockets.cpu_of(process.pid)
        [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert alone > sockets.cpu_of(int(child)) > 0
    assert sockets.cpu_of(process.pid) == 0.0


def test_every_site_is_measured_for_upstream_ours_and_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_PYTHON", sys.executable)
    rows = {row.layer for row in contenders(everyone=True)}
    for case in SITES:
        assert {"upstream", "upstream-pubsub", "fast", "fast-direct", "fast-pubsub-loop"} <= set(FULL[case])
        assert set(FULL[case]) <= rows
    assert set(CHECK["consumers-room"]) <= rows


def test_the_demo_tells_how_many_times_upstream_a_site_is() -> None:
    here = Path(sys.executable)
    rows = socket_rows(
        [
            Contender("upstream", "theirs", here, "core"),
            Contender("upstream-pubsub", "theirs too", here, "pubsub"),
            Contender("memory", "in memory", here),
        ]
    )
    assert [row.layer for row in rows[:3]] == ["upstream", "upstream-pubsub", "fast-direct"]
    common = {"p50_us": 1.0, "p99_us": 2.0, "sent": 5, "lost": 0}
    results = [{**common, "per_second": 10.0 if row.layer.startswith("upstream") else 75.0} for row in rows]
    table = socket_table(rows, results)
    assert list(table.columns[2].cells) == ["", "", *("7.5" if row.ours else "" for row in rows[2:])]
