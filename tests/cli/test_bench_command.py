"""`bench`: what it measures, on whose servers, and that it leaves them as they were."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from channels.layers import InMemoryChannelLayer

from bench.server import Server, free_port
from channels_redis_fast.cli.bench import cases, command
from channels_redis_fast.cli.bench.cases import Subject, Turn, fan_out, round_trip
from channels_redis_fast.cli.bench.rows import Row
from channels_redis_fast.cli.bench.view import render
from tests.cli.conftest import Outcome
from tests.cli.screens import same_as_expected, shown
from tests.core.helpers import until, within

#: Seconds for a child process to do its work, far beyond what it takes.
CHILD = 60

QUICK = ("--seconds", "0.2", "--members", "10")

Call = Callable[..., Outcome]


def keys_of(server: Server) -> set[str]:
    with redis.Redis.from_url(server.url) as raw:
        return {key.decode() for key in raw.keys("*")}


@pytest.fixture(autouse=True)
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ROUNDS", 2)
    monkeypatch.setattr(cases, "SETTLE", 0.01)


def measured(call: Call, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a quick run printed as JSON."""
    outcome = call("bench", "--json", *QUICK, *arguments)
    assert (outcome.code, outcome.err) == (code, "")
    report: dict[str, Any] = json.loads(outcome.out)
    return report


# What is measured.


@pytest.mark.parametrize(("layer", "loop"), [("core", "asyncio"), ("pubsub", "uvloop")])
def test_every_case_on_every_layer(own_server: Callable[..., Server], call: Call, layer: str, loop: str) -> None:
    servers = [own_server(), own_server()]
    hosts = [server.url for server in servers]
    report = measured(call, "--hosts", *hosts, "--layer", layer, "--loop", loop)
    assert {case: list(rows) for case, rows in report["cases"].items()} == {
        "round_trip": ["fast", "memory", "ping"],
        "send": ["fast", "memory"],
        "fan_out": ["fast", "memory"],
    }
    assert (report["rounds"], report["loop"], report["members"]) == (command.ROUNDS, loop, 10)
    assert report["hosts"] == [f"127.0.0.1:{server.port}" for server in servers]
    for rows in report["cases"].values():
        for row in rows.values():
            assert (row["lost"], row["failures"]) == (0, [])
            for name in ("p50_us", "p99_us", "per_second"):
                assert len(row[f"{name}_by_turn"]) == command.ROUNDS
                assert 0 < row[name]["lowest"] <= row[name]["median"] <= row[name]["highest"]
            assert row["p50_us"]["median"] <= row["p99_us"]["median"]
    assert [keys_of(server) for server in servers] == [set(), set()]


def test_as_tables(own_server: Callable[..., Server], call: Call) -> None:
    code, out, err = call("bench", *QUICK, "--hosts", own_server().url, "--case", "fan_out")
    assert (code, err) == (0, "")
    assert "Fan-out: group_send to 10 members" in out
    assert "Send:" not in out
    assert "Round trip" not in out
    for label in ("core layer", "channels_redis_fast ", "InMemoryChannelLayer", "x as fast", "is not installed here"):
        assert label in out


def test_beside_channels_redis(own_server: Callable[..., Server], upstream_python: Path, tmp_path: Path) -> None:
    """Where it can be imported, with whatever redis-py there is."""
    find = "import channels_redis, pathlib; print(pathlib.Path(channels_redis.__file__).parent.parent)"
    found = subprocess.run([str(upstream_python), "-c", find], capture_output=True, text=True, check=True)
    # Behind everything that is installed here.
    script = f"import sys; sys.path.append({found.stdout.strip()!r})\n"
    script += "from channels_redis_fast.cli import bench, main; bench.ROUNDS = 2; sys.exit(main.main())"
    server = own_server()
    command = [sys.executable, "-c", script, "bench", "--json", *QUICK, "--members", "3", "--hosts", server.url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=CHILD, cwd=tmp_path, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    report = json.loads(run.stdout)
    for rows in report["cases"].values():
        assert list(rows)[:3] == ["fast", "channels_redis", "memory"]
        assert rows["channels_redis"]["failures"] == []
        assert rows["channels_redis"]["per_second"]["median"] > 0
    assert report["notes"] == []
    assert keys_of(server) == set()


def test_without_channels_redis(own_server: Callable[..., Server], call: Call) -> None:
    report = measured(call, "--hosts", own_server().url, "--case", "round_trip")
    assert report["notes"] == ["channels_redis is not installed here, so it is not compared."]


# What is shown.


def row(label: str, per_second: float, p50: float, p99: float, lost: int = 0) -> Row:
    turns = [
        Turn(messages=round(per_second * part), seconds=1.0, times=[p50 * part] * 90 + [p99 * part] * 10, lost=lost)
        for part in (0.55, 1.0, 1.2)
    ]
    return Row(label, turns)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_run_at_a_width(width: int) -> None:
    slow = row("channels_redis", 9_235, 5.11e-3, 0.106, lost=12)
    rows = [
        row("channels_redis_fast", 185_474, 433e-6, 8.43e-3),
        slow,
        row("InMemoryChannelLayer", 5_115, 0.0166, 0.0728),
    ]
    failed = Row("channels_redis", [Turn(), Turn()], ["OSError: no", "OSError: out of order"])
    cases_shown = [
        ("Fan-out: group_send to 100 members, until the last one has it", rows),
        ("Round trip: send and receive, one at a time", [rows[0], failed, row("PING", 14_893, 24.8e-6, 916e-6)]),
    ]
    head = "CHANNEL_LAYERS['default'] at localhost:6379: core layer, medians of 3 turns of 1.2 s each"
    about = (
        "asyncio, compiled, channels-redis-fast 0.1.0, channels-redis 4.3.0, channels 4.3.2, redis 8.1.0, hiredis 3.5.0"
    )
    note = "channels_redis does not support clusters, so it is not compared."
    same_as_expected(f"bench-{width}", shown(render(head, about, cases_shown, [note]), width))


# On whose servers.


def test_nothing_of_the_deployment_is_touched(own_server: Callable[..., Server], call: Call) -> None:
    """It has a prefix of its own, though one that begins with the deployment's."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.zadd("asgi:group:bench", {"member": 1})
        raw.zadd("asgibench.0", {"message": 1})
        raw.set("asgi:bench", "of somebody else")
        before = {key: raw.dump(key) for key in raw.keys("*")}
        measured(call, "--hosts", server.url, "--case", "send", "fan_out")
        assert {key: raw.dump(key) for key in raw.keys("*")} == before


def test_a_user_who_may_no_more_than_the_layer_needs(own_server: Callable[..., Server], call: Call) -> None:
    """Without SCAN the end of what is left is its TTL."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        allowed = ("+@sortedset", "+expire", "+ping", "+time", "+@scripting")
        raw.execute_command("ACL", "SETUSER", "chat", "on", ">secret", "~asgi*", *allowed)
        host = f"redis://chat:secret@127.0.0.1:{server.port}"
        report = measured(call, "--hosts", host, "--case", "send", "fan_out")
        assert all(row["failures"] == [] for rows in report["cases"].values() for row in rows.values())
        assert "SCAN is refused here" in report["notes"][-1]
        assert all(0 < raw.ttl(key) <= 60 for key in raw.keys("*"))
        assert not list(raw.scan_iter("*bench.*"))


async def test_interrupted(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """As by Ctrl-C in the middle of a turn. Its directory is not the repository's: nothing of that is needed."""
    server = own_server()
    # A test run in the background of a script has SIGINT ignored, and so would its children.
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script += "from channels_redis_fast.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "bench", "--hosts", server.url, "--seconds", "100", "--case", "send"]
    child = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        await until(lambda: any(":bench:" in key for key in keys_of(server)), CHILD)
        child.send_signal(signal.SIGINT)
        out, err = await within(child.communicate(), CHILD)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert (child.returncode, out) == (1, b"")
    said = err.decode().splitlines(keepends=True)
    assert said[-1] == "channels-redis-fast: Interrupted.\n"
    # Python 3.10 interrupts whatever runs at this moment, and may warn of it.
    assert len(said) == 1 or sys.version_info < (3, 11)
    assert keys_of(server) == set()


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_interrupted_shows_what_it_has(
    own_server: Callable[..., Server], call: Call, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    async def interrupted(subject: Subject, seconds: float) -> Turn:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "send", interrupted)
    server = own_server()
    chosen = ("--case", "round_trip", "send", *(["--json"] if as_json else []))
    code, out, err = call("bench", *QUICK, "--hosts", server.url, *chosen)
    assert (code, err) == (1, "channels-redis-fast: Interrupted.\n")
    assert "not every contender has had all of its turns" in out
    if as_json:
        report = json.loads(out)
        assert (report["interrupted"], list(report["cases"])) == (True, ["round_trip"])
    else:
        assert "Round trip" in out
        assert "Send:" not in out
    assert keys_of(server) == set()


def test_a_server_that_is_not_there(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told at once: nobody takes a turn."""
    port, begun = free_port(), []
    monkeypatch.setattr(command, "_take_turns", lambda *arguments: begun.append(arguments))
    code, out, err = call("bench", "--hosts", f"redis://user:secret@127.0.0.1:{port}")
    assert (code, out, err.count("\n"), begun) == (1, "", 1, [])
    assert f"127.0.0.1:{port}" in err
    assert "secret" not in err


@pytest.mark.parametrize("wrong", [["--seconds", "0"], ["--seconds", "x"], ["--members", "0"], ["--case", "nothing"]])
def test_wrong_usage(wrong: list[str], call: Call) -> None:
    outcome = call("bench", "--hosts", "redis://127.0.0.1:1", *wrong)
    assert outcome.code == 2
    assert wrong[0] in outcome.err


# The honest count.


class Fails:
    key = "fails"
    label = "fails"

    async def turn(self, work: Any, seconds: float) -> Turn:
        raise OSError("out\nof order")


class Notes:
    """A contender that writes down when its turn was."""

    def __init__(self, key: str, order: list[str]) -> None:
        self.key = self.label = key
        self._order = order

    async def turn(self, work: Any, seconds: float) -> Turn:
        self._order.append(self.key)
        return Turn(messages=2, seconds=1.0, times=[0.5, 0.5])


def test_contenders_take_turns_and_one_that_fails_stops_nobody() -> None:
    order: list[str] = []
    case = command.Case("case", "title", round_trip, [Notes("a", order), Fails(), Notes("b", order)])
    rows = {one.key: Row(one.label) for one in case.contenders}
    command._take_turns([case], 1.0, asyncio.run, {"case": rows})
    assert order == ["a", "b"] * command.ROUNDS
    assert rows["fails"].failures == ["OSError: out of order"] * command.ROUNDS
    assert rows["fails"].spread(lambda turn: turn.per_second) is None
    assert rows["a"].spread(lambda turn: turn.per_second) == (2.0, 2.0, 2.0)
    assert (rows["a"].times(rows["b"]), rows["a"].times(rows["fails"])) == (1.0, None)


def test_a_ratio_is_taken_round_by_round() -> None:
    """What else the machine does slows one round and not the next; a round that one of the two missed says nothing."""
    ours = Row("ours", [Turn(messages=count, seconds=1.0) for count in (100, 10, 60, 50)])
    theirs = Row("theirs", [Turn(messages=count, seconds=1.0) for count in (50, 5, 20, 0)])
    assert ours.times(theirs) == 2.0
    assert ours.spread(lambda turn: turn.per_second) == (55.0, 10.0, 100.0)
    assert theirs.spread(lambda turn: turn.per_second) == (20.0, 5.0, 50.0)


def test_a_loss_of_ours_is_a_failure(
    own_server: Callable[..., Server], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lossy(subject: Subject, seconds: float) -> Turn:
        return Turn(messages=1, seconds=1.0, times=[1.0], lost=1)

    monkeypatch.setattr(command, "send", lossy)
    report = measured(call, "--hosts", own_server().url, "--case", "send", code=1)
    assert report["cases"]["send"]["fast"]["lost"] == command.ROUNDS


class Deaf(InMemoryChannelLayer):
    """Loses every message for one channel, from the tenth on."""

    def __init__(self) -> None:
        super().__init__(capacity=1000)
        self.first = ""
        self.count = 0

    async def new_channel(self, prefix: str = "specific.") -> str:
        name: str = await super().new_channel(prefix)
        self.first = self.first or name
        return name

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if channel == self.first:
            self.count += 1
            if self.count >= 10:
                return
        await super().send(channel, message)


def subject(layer: Any) -> Subject:
    async def empty() -> None:
        pass

    return Subject(layer, ["general"], empty)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "LOST_AFTER", 0.3)
    monkeypatch.setattr(cases, "LOOK", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_what_does_not_come_back_is_lost() -> None:
    turn = await within(round_trip(subject(Deaf()), 60.0))
    assert (turn.lost, turn.messages, len(turn.times)) == (1, 9 - cases.WARM_UP, 9 - cases.WARM_UP)


@pytest.mark.usefixtures("impatient")
async def test_members_whom_a_message_does_not_reach() -> None:
    turn = await within(fan_out(subject(Deaf()), 60.0, 5))
    assert (turn.lost, turn.messages) == (1, 5 * (9 - cases.WARM_UP))


@pytest.mark.usefixtures("impatient")
async def test_a_receiver_that_raises_is_no_loss() -> None:
    class Broken(InMemoryChannelLayer):
        async def receive(self, channel: str) -> dict[str, Any]:
            raise OSError("broken")

    for work in (round_trip(subject(Broken()), 0.1), fan_out(subject(Broken()), 0.1, 3)):
        with pytest.raises(OSError, match="broken"):
            await within(work)


def test_percentiles() -> None:
    turn = Turn(times=[n / 1e6 for n in range(100, 0, -1)])
    assert (turn.percentile(0.5), turn.percentile(0.99)) == pytest.approx((51, 100))
    assert Turn().percentile(0.5) == 0
