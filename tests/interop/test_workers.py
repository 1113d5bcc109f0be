"""A general channel with workers of both packages: every job is done, and by ours once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.interop.fleet import Fleet, Member, until

JOBS = 400


@pytest.mark.parametrize(
    "options",
    [{}, {"shards": 2}, {"shards": 5}, {"serializer_format": "json", "symmetric_encryption_keys": ["key" * 11]}],
    ids=["1 shard", "2 shards", "5 shards", "encrypted json"],
)
def test_workers(
    options: dict[str, Any], make_fleet: Callable[..., Fleet], upstream_fault: Callable[[str], None]
) -> None:
    """Of the jobs that both packages send none is lost, and none comes twice to workers of ours.

    Those of channels_redis put back, on the way, what another of them is just given, so that it comes twice. Whoever
    gets it then, one of the two was theirs: a message that one of ours has popped is nowhere else.
    """
    fleet = make_fleet("core", capacity=10 * JOBS, **options)
    for worker in fleet.members:
        worker.listen("jobs")
    # Each of ours waits on all shards, each of theirs on one.
    until(lambda: fleet.waiting() == 2 * len(fleet.urls) + 2)
    senders = (fleet.ours[0], fleet.theirs[0])
    posts = [sender.post("jobs", sender.numbered(JOBS), width=20) for sender in senders]
    assert [post() for post in posts] == [{}, {}]

    def done(worker: Member) -> Counter[tuple[str, int]]:
        return Counter((job["by"], job["number"]) for job in worker.heard("jobs", 0))

    def finished() -> bool:
        # What was put back, too: ours wait on all shards and get it.
        left = any(raw.zcard(f"{fleet.prefix}jobs") for raw in fleet.raws)
        return not left and len(set().union(*map(done, fleet.members))) == 2 * JOBS

    until(finished, interval=0.05)
    by_ours: Counter[tuple[str, int]] = sum(map(done, fleet.ours), Counter())
    by_theirs: Counter[tuple[str, int]] = sum(map(done, fleet.theirs), Counter())
    assert set(by_ours) | set(by_theirs) == {(str(sender), number) for sender in senders for number in range(JOBS)}
    assert [job for job, times in by_ours.items() if times > 1] == []
    # Not all to one kind: the test would show nothing.
    assert all(done(worker) for worker in fleet.members)
    doubled = by_ours.total() + by_theirs.total() - 2 * JOBS
    if doubled:
        both = len(set(by_ours) & set(by_theirs))
        upstream_fault(f"{doubled} of {2 * JOBS} jobs came again: {both} of them to ours after theirs had it")
    for worker in fleet.ours:
        assert worker.call("stats")["undecodable"] == 0
