"""``bench``: how fast the layer is on this deployment's own servers, compared with channels_redis and baselines."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.metadata
import json
import platform
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ... import hot
from ...connection.hosts import host_label
from .. import deployment, progress
from ..deployment import UsageError
from ..values import argument, count, seconds_within
from .cases import SENDERS, Turn, fan_out, round_trip, send
from .contenders import EXPIRY, Contender, PingContender, Scratch, Work, contenders
from .rows import Row

HELP = "Measure round trip, send and fan-out on a deployment's servers, and compare with channels_redis if installed."
EXAMPLE = "channels-redis-fast bench --settings mysite.settings --seconds 30"

#: Turns of each contender in each case.
ROUNDS = 5

#: Packages whose versions are shown, if installed.
PACKAGES = ("channels-redis-fast", "channels-redis", "channels", "redis", "hiredis", "uvloop")

#: The cases that are measured.
CASES = ("round_trip", "send", "fan_out")

Run = Callable[[Coroutine[Any, Any, Any]], Any]

#: The rows by case and contender.
Rows = dict[str, dict[str, Row]]


@dataclass(frozen=True)
class Case:
    """A task for every contender, and its name."""

    key: str
    title: str
    work: Work
    contenders: Sequence[Contender]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench``."""
    parser.add_argument(
        "--seconds",
        type=argument(seconds_within(0.001, 3600)),
        default=20.0,
        metavar="SECONDS",
        help="time to measure, for all cases together (default: 20)",
    )
    parser.add_argument(
        "--members",
        type=argument(count(1, 10_000)),
        default=100,
        metavar="N",
        help="members of the group in the fan-out case (default: 100)",
    )
    parser.add_argument(
        "--case", nargs="+", choices=CASES, default=CASES, metavar="CASE", help=f"only these cases: {', '.join(CASES)}"
    )
    parser.add_argument(
        "--loop", choices=("asyncio", "uvloop"), default="asyncio", help="event loop (default: asyncio)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the numbers of each turn")


def run(arguments: argparse.Namespace, console: Any) -> int:
    """
    Measure and show; return 1 if this layer lost messages or failed.

    After Ctrl-C, the results so far are shown; then the interrupt is raised.
    """
    from .view import render  # noqa: PLC0415 - needs the extra

    place = deployment.find(arguments)
    run_loop = _runner(arguments.loop)
    scratch = Scratch(place)
    run_loop(_reach(scratch))
    rivals, notes = contenders(scratch)
    cases = [case for case in _cases(rivals, PingContender(scratch), arguments.members) if case.key in arguments.case]
    seconds = arguments.seconds / (ROUNDS * sum(len(case.contenders) for case in cases))
    rows: Rows = {case.key: {one.key: Row(one.label) for one in case.contenders} for case in cases}
    interrupted: KeyboardInterrupt | None = None
    try:
        _take_turns(cases, seconds, run_loop, rows)
    except KeyboardInterrupt as error:
        # A case in which this layer has had no turn is not shown.
        cases = [case for case in cases if rows[case.key]["fast"].turns]
        if not cases:
            raise
        interrupted = error
        notes.append("Interrupted: not every contender has had all of its turns.")
    finally:
        # Also after Ctrl-C, which has ended the turn's event loop.
        run_loop(scratch.clean())
    if not scratch.can_scan:
        notes.append(f"SCAN is refused here: the keys of this run expire within {EXPIRY} s.")
    hosts = [host_label(host) for host in scratch.layer.hosts]
    if arguments.json:
        report = {
            "deployment": place.name,
            "hosts": hosts,
            "loop": arguments.loop,
            "rounds": ROUNDS,
            "seconds_per_turn": seconds,
            "members": arguments.members,
            "python": platform.python_version(),
            "versions": _versions(),
            "notes": notes,
            "interrupted": interrupted is not None,
            "cases": {
                case.key: {key: row.as_dict(rows[case.key]["fast"]) for key, row in rows[case.key].items()}
                for case in cases
            },
        }
        # Not with rich, which would wrap it and add colours.
        console.file.write(json.dumps(report, indent=2) + "\n")
    else:
        kind = "core" if place.is_core else "Pub/Sub"
        head = f"{place.name} at {', '.join(hosts)}: {kind} layer, medians of {ROUNDS} turns of {seconds:.2g} s each"
        versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
        about = f"{arguments.loop}, {'compiled' if hot.COMPILED else 'pure Python'}, {versions}"
        titles = [(case.title, list(rows[case.key].values())) for case in cases]
        console.print(render(head, about, titles, notes))
    if interrupted is not None:
        raise interrupted
    ours = [rows[case.key]["fast"] for case in cases]
    return int(any(row.lost or row.failures for row in ours))


def _cases(rivals: Sequence[Contender], ping: Contender, members: int) -> list[Case]:
    return [
        Case("round_trip", "Round trip: send and receive, one at a time", round_trip, [*rivals, ping]),
        Case("send", f"Send: {SENDERS} coroutines at the same time", send, rivals),
        Case(
            "fan_out",
            f"Fan-out: group_send to {members} members, until the last one has it",
            partial(fan_out, members=members),
            rivals,
        ),
    ]


def _take_turns(cases: Sequence[Case], seconds: float, run_loop: Run, rows: Rows) -> None:
    """Fill the rows. Contenders take turns, so that other load on the machine affects them all."""
    turns = [(case, one) for case in cases for _ in range(ROUNDS) for one in case.contenders]
    with progress.bar() as bar:
        task = bar.add_task("", total=len(turns))
        for case, contender in turns:
            bar.update(task, description=f"{case.key}: {contender.label}")
            row = rows[case.key][contender.key]
            gc.collect()
            try:
                row.turns.append(run_loop(contender.turn(case.work, seconds)))
            except Exception as error:
                # Whatever the error is, the others continue.
                row.turns.append(Turn())
                row.failures.append(" ".join(f"{type(error).__name__}: {error}".split()))
            bar.advance(task)


async def _reach(scratch: Scratch) -> None:
    """Check that every shard answers. Raises ``redis.exceptions.ConnectionError`` naming the host."""
    async with scratch.lines():
        pass


def _runner(loop: str) -> Run:
    if loop == "asyncio":
        return asyncio.run
    try:
        import uvloop  # noqa: PLC0415 - a choice of the site's

        return uvloop.run
    except ImportError:
        raise UsageError("--loop uvloop needs uvloop: pip install uvloop") from None


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
