"""
`tune` on real servers, with real processes: what it measures against queueing theory, what it writes, what it leaves.

Other processes share the machine, so service times are tens of milliseconds, what is compared are counts of messages,
and a run that is doubted may be off by as many messages as were sent too late. Nothing follows from such a run, and the
command has to say so.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import redis

from bench.server import ForeignServer, Server
from channels_redis_fast.cli.tune import report
from channels_redis_fast.cli.tune.estimate import wilson
from channels_redis_fast.cli.tune.sweep import Standing
from tests.cli.conftest import Outcome
from tests.cli.theory import md1k_loss
from tests.conftest import ROOT

#: So many deviations are no accident, on a noisy machine either.
Z = 4.0


@pytest.fixture
def tune(
    call: Callable[..., Outcome], redis_server: Server | ForeignServer, prefix: str, tmp_path: Path
) -> Callable[..., tuple[Outcome, dict[str, Any]]]:
    """Run the command on the server of the tests; return what it printed and its JSON."""

    def run(*arguments: str) -> tuple[Outcome, dict[str, Any]]:
        where = ("--hosts", redis_server.url, "--prefix", prefix, "--output", str(tmp_path / "out"), "--repeats", "0")
        outcome = call("tune", *where, *arguments)
        path = tmp_path / "out" / "sweep.json"
        return outcome, json.loads(path.read_text()) if path.exists() else {}

    return run


@pytest.fixture
def keys(redis_server: Server | ForeignServer, prefix: str) -> Iterator[Callable[[], list[bytes]]]:
    """Look at what there is behind the prefix."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield lambda: list(client.scan_iter(match=f"{prefix}*", count=1000))


def test_measured_loss_is_that_of_md1k(
    tune: Callable[..., tuple[Outcome, dict[str, Any]]], keys: Callable[[], list[bytes]], tmp_path: Path
) -> None:
    outcome, sweep = tune(
        "--rate", "75", "--service-time", "12ms", "--capacities", "1,3", "--duration", "4s", "--max-loss", "1%",
        "--at-once", "2",
    )  # fmt: skip
    assert keys() == []
    assert [run["capacity"] for run in sweep["runs"]] == [1, 3]
    for run in sweep["runs"]:
        assert run["unaccounted"] == run["failed"] == run["expired"] == 0
        assert run["offered"] == run["received"] + run["refused"] + run["dropped"]
        assert run["at_once"] == 2
        # With the time that a message really took: the consumer's sleep, and the way to the next message.
        cycle = run["service_time"] + run["fetch_time"]
        assert cycle > 0.0115
        share, interval = run["loss"]["estimate"], run["loss"]["high"] - run["loss"]["low"]
        exact = md1k_loss(75 * cycle, run["capacity"] + 1)
        late = run["late"] / run["offered"]
        assert abs(share - exact) < interval * Z / 1.96 + late, (share, exact, interval)
        # On the very same messages an ideal queue is closer.
        assert abs(share - run["ideal_loss"]) < interval + late
        assert 0 < run["wait_p50"] <= run["wait_p95"] <= run["wait_p99"]["estimate"] <= run["wait_max"]
        assert run["memory_full"] > 0
        assert 1 <= run["depth"] <= run["capacity"]
        assert run["cpu_sender"] > 0
        assert run["cpu_consumers"] > 0
    assert_saved(tmp_path / "out", sweep)
    advice = sweep["advice"]
    assert (outcome.code, advice["capacity"], advice["setting"]) == (1, None, None)
    assert outcome.err == ""
    if not any(run["is_reliable"] for run in sweep["runs"]):
        assert advice["kind"] == "unreliable"
        assert "could not keep up" in outcome.out


def assert_saved(directory: Path, sweep: dict[str, Any]) -> None:
    assert sorted(path.name for path in directory.iterdir()) == ["index.html", "loss.svg", "sweep.json", "wait.svg"]
    for name in ("loss.svg", "wait.svg"):
        assert ElementTree.parse(directory / name).getroot().tag.endswith("}svg")
    text = (directory / "index.html").read_text()
    # Nothing of it is elsewhere.
    assert set(re.findall(r"""(?:src|href)\s*=\s*["']?(.{5})""", text)) == {"data:"}
    assert re.findall(r"https?://|@import|url\(|<script|<link|<iframe", text) == []
    assert text.count("data:image/svg+xml;base64,") == 2
    assert sweep["shape"] == 1
    assert {"made", "version", "deployment", "workload", "limits", "seconds", "seed", "runs", "ideal", "advice"} <= set(
        sweep
    )
    for run in sweep["runs"]:
        assert f"<td>{run['capacity']}<td>{run['loss']['estimate']:.3%}" in text


def test_a_burst_needs_the_room_that_arithmetic_says(
    tune: Callable[..., tuple[Outcome, dict[str, Any]]], keys: Callable[[], list[bytes]]
) -> None:
    # 20 messages 2 ms apart, 20 ms each: taken at 0 and 20 ms, so behind the last one 18 wait. Of three bursts.
    outcome, sweep = tune(
        "--burst", "20", "--burst-every", "1s", "--burst-length", "40ms", "--service-time", "20ms", "--duration", "3s",
        "--capacities", "8,24", "--max-loss", "8%", "--max-wait", "5s", "--channel", "jobs", "--at-once", "2",
    )  # fmt: skip
    assert keys() == []
    small, large = sweep["runs"]
    assert large["refused"] < small["refused"]
    assert large["loss"]["estimate"] == large["refused"] / 60
    assert large["loss"]["high"] == pytest.approx(wilson(large["refused"], 60)[1])
    # The first of a burst waits for nobody, and the last for nearly 19 others.
    assert large["wait_max"] >= 0.3
    if not (small["is_reliable"] and large["is_reliable"]):
        # A machine that stands still for a moment is not what was calculated; the sweep says so.
        return
    assert large["refused"] == 0
    # A consumer that comes one message late at each burst, or the last messages late on their way.
    assert abs(small["refused"] - 3 * 10) <= 3 + small["late"]
    assert (outcome.code, sweep["advice"]["kind"], sweep["advice"]["capacity"]) == (0, "capacity", 24)
    assert sweep["advice"]["setting"] == '"channel_capacity": {"jobs": 24},'
    assert sweep["advice"]["setting"] in outcome.out


def test_long_waits_although_nothing_is_refused(tune: Callable[..., tuple[Outcome, dict[str, Any]]]) -> None:
    outcome, sweep = tune(
        "--burst", "15", "--burst-every", "1s", "--service-time", "20ms", "--duration", "1s", "--capacities", "40",
        "--max-loss", "50%", "--max-wait", "50ms",
    )  # fmt: skip
    assert outcome.code == 1
    if not sweep["runs"][0]["is_reliable"]:
        return
    assert sweep["advice"]["kind"] == "waits"
    assert "With 40, nothing is refused, but p99 of the waiting time is" in outcome.out
    assert sweep["advice"]["servers_needed"] >= 4


def test_the_mailboxes_of_pubsub(
    tune: Callable[..., tuple[Outcome, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Standing] = []
    monkeypatch.setattr(report, "standing", lambda standing: told.append(standing) or "")
    _, sweep = tune(
        "--layer", "pubsub", "--burst", "10", "--burst-every", "500ms", "--service-time", "10ms", "--duration", "1s",
        "--capacities", "3,50", "--consumers", "2", "--processes", "2", "--at-once", "1",
    )  # fmt: skip
    small, large = sweep["runs"]
    assert sweep["workload"]["to"] == "group"
    # Two bursts of ten to four consumers; each has one at once and keeps three.
    assert small["offered"] == large["offered"] == 80
    assert large["received"] == 80
    assert abs(small["dropped"] - 4 * 2 * 6) <= 8 + 4 * small["late"]
    for run in sweep["runs"]:
        assert run["refused"] == run["unaccounted"] == 0
        assert run["depth"] is run["memory"] is run["memory_full"] is None
    # The progress is that of both runs together.
    assert [(one.measured, one.planned, tuple(one.driving)) for one in (told[0], told[-1])] == [
        (0, 2, (3,)),
        (1, 2, (50,)),
    ]
    assert told[0].seconds_left >= 2
    assert told[0].part < 0.1
    assert 0.5 < told[-1].part <= 1


@pytest.mark.parametrize("to", ["specific", "group"])
def test_every_message_to_specific_channels_is_accounted_for(
    tune: Callable[..., tuple[Outcome, dict[str, Any]]], keys: Callable[[], list[bytes]], to: str
) -> None:
    outcome, sweep = tune(
        "--to", to, "--rate", "60", "--service-time", "5ms", "--service-spread", "exponential", "--duration", "1s",
        "--capacities", "1,500", "--consumers", "3", "--processes", "2", "--size", "2kB", "--at-once", "1",
    )  # fmt: skip
    assert keys() == []
    copies = 6 if to == "group" else 1
    assert sweep["workload"]["size"] == 2000
    for run in sweep["runs"]:
        assert run["unaccounted"] == 0
        assert run["offered"] % copies == 0
        assert run["message_bytes"] == pytest.approx(2000, abs=2)
    assert sweep["runs"][1]["received"] == sweep["runs"][1]["offered"] > 0
    assert sweep["ideal"] is None
    assert outcome.code in (0, 1)


def test_consumers_that_compute(tune: Callable[..., tuple[Outcome, dict[str, Any]]]) -> None:
    _, sweep = tune(
        "--service", "cpu", "--rate", "20", "--service-time", "10ms", "--duration", "1s", "--capacities", "500",
        "--arrivals", "regular",
    )  # fmt: skip
    (run,) = sweep["runs"]
    assert run["offered"] == run["received"] == 20
    # Processor time, whatever the clock says.
    assert run["cpu_consumers"] >= 20 * 0.0099
    assert run["service_time"] >= 0.0099


def test_a_project_and_a_server_of_its_own(project: Callable[..., Any], tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"rate": 30, "service_time": "5ms", "to": "specific", "arrivals": "regular"}))
    layers = {
        "default": {
            "BACKEND": "channels_redis_fast.core.RedisChannelLayer",
            # Nobody is there: everything happens on the server that is started for it.
            "CONFIG": {"hosts": ["redis://:s3cret@127.0.0.1:1"], "channel_capacity": {"http.*": 7, "specific.*": 50}},
        }
    }
    run = project(layers)
    outcome = run(
        "tune", "--own-server", "--profile", str(profile), "--rate", "40", "--duration", "1s", "--max-loss", "50%",
        "--capacities", "20,10", "--output", "found", "--repeats", "0", "--at-once", "1",
    )  # fmt: skip
    assert outcome.err == ""
    sweep = json.loads((tmp_path / "found" / "sweep.json").read_text())
    assert sweep["deployment"]["hosts"] == ["a server of its own"]
    assert sweep["workload"]["rate"] == 40
    assert [one["capacity"] for one in sweep["runs"]] == [10, 20]
    assert [one["offered"] for one in sweep["runs"]] == [40, 40]
    # A machine that stands still for long enough loses some at these capacities, and each of them is counted.
    counts = ("received", "refused", "dropped", "expired")
    assert [sum(one[count] for count in counts) for one in sweep["runs"]] == [40, 40]
    assert "s3cret" not in json.dumps(sweep) + outcome.out
    if not sweep["runs"][0]["is_reliable"]:
        return
    assert outcome.code == 0
    assert '"channel_capacity": {"specific.*": 10, "http.*": 7},' in outcome.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rate", "5"], "--service-time"),
        (["--rate", "fast", "--service-time", "1s"], "a rate such as 40"),
        (["--rate", "1", "--service-time", "20"], "--service-time: a time with its unit (write 20ms or 20s)"),
        (["--rate", "1", "--service-time", "1s", "--max-loss", "1"], "--max-loss: a share such as 0.1% (write 1%)"),
        (["--rate", "1", "--service-time", "1s", "--max-loss", "100%"], "a share below 100%"),
        (["--rate", "1", "--service-time", "1s", "--max-wait", "2"], "--max-wait: a time with its unit"),
        (["--rate", "1", "--service-time", "1s", "--duration", "30"], "--duration: a time with its unit"),
        (["--from-live", "60", "--service-time", "1s"], "--from-live: a time with its unit"),
        (["--burst", "1", "--burst-every", "5", "--service-time", "1s"], "--burst-every: a time with its unit"),
        (["--burst", "1.000", "--service-time", "1s"], "--burst: a whole number"),
        (["--rate", "1", "--service-time", "100ms", "--max-wait", "61s"], "less than the layer's expiry, 60 s"),
        (["--service-time", "1s"], "--rate"),
        (["--rate", "1", "--service-time", "1ms", "--capacities", "0"], "from 1 to"),
        (["--rate", "1", "--service-time", "1s", "--max-wait", "0"], "--max-wait"),
        (["--rate", "1", "--service-time", "1s", "--max-loss", "0"], "--max-loss"),
        (["--rate", "0.001", "--service-time", "1s", "--duration", "1s"], "longer --duration"),
        (["--rate", "900", "--service-time", "1ms", "--duration", "1h"], "shorter --duration"),
        (["--rate", "1", "--service-time", "1s", "--layer", "pubsub", "--to", "general"], "Pub/Sub"),
        (["--profile", "nothing.json"], "nothing.json cannot be read"),
        (["--rate", "1", "--service-time", "1ms", "--output", "/dev/null/x"], "/dev/null is not a directory"),
    ],
)  # fmt: skip
def test_wrong_usage(
    call: Callable[..., Outcome], redis_server: Server | ForeignServer, arguments: list[str], says: str
) -> None:
    outcome = call("tune", "--hosts", redis_server.url, *arguments)
    assert outcome.code == 2
    assert says in outcome.err
    assert "Traceback" not in outcome.err


def test_a_server_that_is_not_there(call: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = call(
        "tune", "--hosts", "redis://:s3cret@127.0.0.1:1", "--rate", "10", "--service-time", "5ms",
        "--output", str(tmp_path),
    )  # fmt: skip
    assert outcome.code == 1
    assert "127.0.0.1:1" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert "s3cret" not in outcome.err


def test_a_user_that_may_do_little(
    call: Callable[..., Outcome], own_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command(
            "ACL", "SETUSER", "poor", "on", ">s3cret", "~asgi*", "&*", "+@all", "-@admin", "-@dangerous", "-scan",
            "-memory",
        )  # fmt: skip
        url = server.url.replace("://", "://poor:s3cret@")
        outcome = call(
            "tune", "--hosts", url, "--output", str(tmp_path), "--repeats", "0",
            "--rate", "30", "--service-time", "2ms", "--duration", "1s", "--capacities", "10", "--max-loss", "50%",
        )  # fmt: skip
        assert outcome.err == ""
        (run,) = json.loads((tmp_path / "sweep.json").read_text())["runs"]
        assert run["received"] == run["offered"] > 0
        assert run["cpu_server"] is run["memory"] is run["memory_full"] is None
        # What cannot be searched for goes away by itself.
        assert all(0 < client.ttl(key) <= 60 for key in client.scan_iter())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing(
    own_server: Callable[..., Server], tmp_path: Path, how: signal.Signals
) -> None:
    server = own_server()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    command = [sys.executable, "-m", "channels_redis_fast", "tune", "--hosts", server.url, "--output", "out"]
    command += [
        "--to",
        "group",
        "--burst",
        "200",
        "--burst-every",
        "12s",
        "--service-time",
        "50ms",
        "--duration",
        "60s",
    ]
    command += ["--capacities", "90"]
    with redis.Redis.from_url(server.url) as client:
        ours = set(names_of(client))
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
            start_new_session=True,
        )  # fmt: skip
        try:
            # A burst is not taken at once, and fills the key for seconds.
            until(lambda: bool(list(client.scan_iter(match="*specific*"))), process)
            lives = [client.ttl(key) for key in client.scan_iter()]
            assert all(life == -2 or 0 <= life <= 3600 for life in lives), lives
            if how is signal.SIGKILL:
                process.kill()
            else:
                # As the terminal does it.
                os.killpg(process.pid, how)
            out, err = process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        # No run was finished, so there is nothing to save.
        assert not (tmp_path / "out").exists()
        # The processes that it started are gone, whatever became of itself.
        until(lambda: set(names_of(client)) <= ours)
        if how is signal.SIGKILL:
            return
        assert process.returncode == 1
        assert err.strip().splitlines()[-1].endswith("Interrupted.")
        assert "Traceback" not in out + err
        assert client.dbsize() == 0


@pytest.mark.parametrize("how", ["Ctrl-C", "the server ends"])
def test_a_sweep_that_is_stopped_reports_what_is_finished(
    own_server: Callable[..., Server], tmp_path: Path, how: str
) -> None:
    server = own_server()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    command = [sys.executable, "-m", "channels_redis_fast", "tune", "--hosts", server.url, "--output", "out"]
    # Something waits most of the time, so that there is a key to be seen.
    command += ["--rate", "20", "--service-time", "40ms", "--duration", "3s", "--at-once", "1"]
    command += ["--capacities", "30,40,50", "--max-loss", "50%", "--channel", "jobs"]
    with redis.Redis.from_url(server.url) as client:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
            start_new_session=True,
        )  # fmt: skip
        try:
            # The second of them goes on.
            until(lambda: any(b":2:" in key for key in client.scan_iter(match="asgi:tune:*")), process)
            if how == "Ctrl-C":
                os.killpg(process.pid, signal.SIGINT)
            else:
                server.stop()
            out, err = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert process.returncode == 1
    assert "Traceback" not in out + err
    assert ("Interrupted." if how == "Ctrl-C" else f"127.0.0.1:{server.port}") in err.strip().splitlines()[-1]
    sweep = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [run["capacity"] for run in sweep["runs"]] == [30]
    assert "Stopped after 1 of 3 capacities." in out
    assert "Saved in out" in out
    if sweep["runs"][0]["is_reliable"]:
        assert '"channel_capacity": {"jobs": 30},' in out


def test_a_hopeless_load_is_not_driven(call: Callable[..., Outcome], tmp_path: Path) -> None:
    # Nobody is there to drive.
    outcome = call(
        "tune", "--hosts", "redis://127.0.0.1:1", "--rate", "40", "--service-time", "20s", "--output",
        str(tmp_path / "out"),
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (1, "")
    assert "No capacity helps" in outcome.out
    assert "Utilisation: 80000%" in outcome.out
    assert not (tmp_path / "out").exists()


def test_the_extra_that_is_missing_is_named(
    call: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = call("tune", "--hosts", "redis://127.0.0.1:1", "--rate", "1", "--service-time", "1ms")
    assert outcome.code == 2
    assert outcome.err.endswith("pip install 'channels-redis-fast[tune]'\n")


def test_help_needs_no_extra() -> None:
    """The frame shows what each command is for, whether it can run here or not."""
    script = (
        "import sys\n"
        "sys.modules.update(rich=None, matplotlib=None)\n"
        "import channels_redis_fast.cli.tune.command, channels_redis_fast.cli.bench.command\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def names_of(client: redis.Redis) -> list[str]:
    return [str(one["name"]) for one in client.client_list() if one["name"]]


def until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"the command ended: {process.communicate()}")
        if time.monotonic() > deadline:
            pytest.fail("waited in vain")
        time.sleep(0.02)
