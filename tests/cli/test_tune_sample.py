"""What `--from-live` sees of a deployment, and what it does not."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from bench.server import ForeignServer, Server
from channels_redis_fast.cli.deployment import Deployment, UsageError
from channels_redis_fast.cli.tune.sample import Watched, conclude, take
from channels_redis_fast.cli.tune.scratch import find_server
from channels_redis_fast.core import RedisChannelLayer
from tests.cli.conftest import Outcome
from tests.core.helpers import LIMIT, within


def watched(arrived: list[int], depths: list[int], complete: bool = True, name: str = "jobs") -> Watched:
    return Watched(b"asgi" + name.encode(), name, arrived, depths, [complete] * len(arrived), [212])


def test_what_is_seen_to_arrive_is_the_rate() -> None:
    sample = conclude([watched([5] * 100, [20] * 100)], 10.0, 400.0, 3, Counter())
    assert sample.fields == {"rate": 50.0, "size": 200, "processes": 3}
    # Each look showed five new ones and as many waiting as before: fifty a second were taken.
    assert sample.seen["busy_messages_per_second"] == pytest.approx(50)
    assert sample.rate_range is None
    assert "n × 20ms" in sample.notes[1]


@pytest.mark.parametrize(("calls", "most"), [(42.0, 42.0), (None, None), (3.0, None)])
def test_of_what_comes_and_goes_unseen_only_a_range_is_known(calls: float | None, most: float | None) -> None:
    """Commands may be of anybody, so their number is no rate; one may carry a batch, so it may be too small as well."""
    sample = conclude([watched([0, 1] * 50, [0, 1] * 50, complete=False)], 10.0, calls, 2, Counter())
    assert sample.fields == {"size": 200, "processes": 2}
    assert sample.rate_range == (5.0, most)
    assert "may have come and gone unseen" in sample.notes[0]


def test_bursts_are_told_from_the_rest() -> None:
    arrived = ([2] * 10) * 9 + [40] * 10
    sample = conclude([watched(arrived, [500] * 100)], 10.0, None, None, Counter())
    assert sample.fields["rate"] == pytest.approx(20)
    assert (sample.fields["burst"], sample.fields["burst_every"]) == (380, 10.0)


def test_the_busiest_channel_counts() -> None:
    sample = conclude(
        [watched([1] * 10, [1] * 10), watched([7] * 10, [9] * 10, name="mail")], 1.0, None, None, Counter()
    )
    assert sample.seen["channel"] == "mail"


def test_groups_tell_of_consumers_and_processes() -> None:
    members = Counter({"specific.a": 30, "specific.b": 20})
    sample = conclude([], 10.0, 90.0, 2, members)
    assert sample.fields == {"to": "group", "consumers": 25, "processes": 2}
    assert sample.rate_range == (0.0, 90.0)
    assert "for all of its clients" in sample.notes[0]


def test_where_nothing_comes_nothing_follows() -> None:
    with pytest.raises(UsageError, match="No message arrived within 10 s"):
        conclude([watched([0] * 10, [0] * 10)], 10.0, 0.0, 1, Counter())


async def test_a_live_general_channel(redis_server: Server | ForeignServer, prefix: str) -> None:
    layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix, capacity=10_000)
    deployment = Deployment("--hosts", None, RedisChannelLayer, {"hosts": [redis_server.url], "prefix": prefix})
    for _ in range(20):
        await layer.send("jobs", {"type": "job", "body": "x" * 300})
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await layer.send("jobs", {"type": "job", "body": "x" * 300})
            sent += 1
            await asyncio.sleep(0.01)

    sending = asyncio.ensure_future(send())
    try:
        sample = await within(take(deployment, 1.5, "jobs"))
        during = sent
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    # Nobody takes them, so nothing is missed; what was there before is not counted.
    assert sample.seen["complete"] == 1.0
    assert sample.seen["arrivals_per_second"] * sample.seen["seconds"] <= during
    assert sample.seen["arrivals_per_second"] * sample.seen["seconds"] >= during / 3
    assert 300 <= sample.fields["size"] <= 350
    with redis.Redis.from_url(redis_server.url) as client:
        # The last one may have come although its sender was cancelled before it heard so.
        assert client.zcard(f"{prefix}jobs") - 20 - sent in (0, 1)
        assert len(list(client.scan_iter(match=f"{prefix}*"))) == 1
    await layer.close_pools()


def test_a_live_deployment_is_tuned(
    call: Callable[..., Outcome], redis_server: Server | ForeignServer, prefix: str, tmp_path: Path
) -> None:
    waiting, stop = threading.Event(), threading.Event()

    async def send() -> None:
        layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix, capacity=100_000)
        while not stop.is_set():
            await layer.send("jobs", {"type": "job"})
            waiting.set()
            await asyncio.sleep(0.005)
        await layer.close_pools()

    thread = threading.Thread(target=asyncio.run, args=(send(),))
    thread.start()
    try:
        assert waiting.wait(LIMIT)
        outcome = call(
            "tune", "--hosts", redis_server.url, "--prefix", prefix, "--output", str(tmp_path), "--from-live", "1s",
            "--service-time", "1ms", "--duration", "1s", "--max-loss", "50%", "--capacities", "50", "--repeats", "0",
        )  # fmt: skip
    finally:
        stop.set()
        thread.join()
    assert "On jobs, " in outcome.out
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    assert sweep["sample"]["seen"]["channel"] == "jobs"
    assert 2 < sweep["sample"]["fields"]["rate"] <= 200
    assert sweep["workload"]["rate"] == sweep["sample"]["fields"]["rate"]
    assert sweep["runs"][0]["unaccounted"] == 0
    # Nothing of the site's was taken, nothing of our own stays.
    with redis.Redis.from_url(redis_server.url) as client:
        assert {key.decode() for key in client.scan_iter(match=f"{prefix}*")} == {f"{prefix}jobs"}


@pytest.mark.parametrize("given", [(), ("--rate", "5")])
def test_a_part_of_the_traffic_is_no_rate(
    call: Callable[..., Outcome],
    redis_server: Server | ForeignServer,
    prefix: str,
    tmp_path: Path,
    given: tuple[str, ...],
) -> None:
    """As on any site whose consumers keep up: what they take at once is seen by nobody."""
    busy, stop = threading.Event(), threading.Event()

    async def chat() -> None:
        layer = RedisChannelLayer(hosts=[redis_server.url], prefix=prefix)
        while not stop.is_set():
            await layer.send("jobs", {"type": "job"})
            await layer.receive("jobs")
            busy.set()
            await asyncio.sleep(0.001)
        await layer.close_pools()

    thread = threading.Thread(target=asyncio.run, args=(chat(),))
    thread.start()
    try:
        assert busy.wait(LIMIT)
        outcome = call(
            "tune", "--hosts", redis_server.url, "--prefix", prefix, "--output", str(tmp_path / "out"), "--from-live",
            "1s", "--service-time", "1ms", "--duration", "1s", "--max-loss", "50%", "--capacities", "50", "--repeats",
            "0", *given,
        )  # fmt: skip
    finally:
        stop.set()
        thread.join()
    if given:
        sweep = json.loads((tmp_path / "out" / "sweep.json").read_text())
        assert sweep["workload"]["rate"] == 5
        assert sweep["sample"]["rate_range"][0] < sweep["sample"]["rate_range"][1]
        return
    assert outcome.code == 2
    assert "--from-live saw only a part of the traffic: between" in outcome.err
    assert "--rate N" in outcome.err
    # Nothing was driven.
    assert "Load:" not in outcome.out
    assert not (tmp_path / "out").exists()


def test_a_server_of_its_own_is_no_deployment(call: Callable[..., Outcome]) -> None:
    if find_server() is None:
        pytest.skip("needs a server to start")
    outcome = call("tune", "--own-server", "--from-live", "1s", "--service-time", "1ms")
    assert outcome.code == 2
    assert "--from-live looks at a deployment" in outcome.err
