"""What reaches clients that lose their connections: `python -m bench.jitter`.

A site on uvicorn, 500 WebSocket clients, and 2 messages per second to their room. Each client is cut for 2 s about
every 15 s. Of channels_redis, of this package, and of its `Resumable` consumers it says what share of the messages
arrived, and how late. Writes a report as JSON; `--draw FILE` puts one into docs/resuming.md, with its picture. Knows
contenders and numbers; `bench.jittered` measures one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.charts import Row, bars
from bench.compare import machine
from bench.processes import ContenderError, result_of
from bench.server import ServerError, server_from_environment
from bench.tables import colored, new_table
from bench.upstream import ROOT, ensure_python

PAGE = ROOT / "docs" / "resuming.md"
PICTURE = "delivered-to-clients-that-are-cut.svg"
BEGIN = "<!-- jitter: begin (python -m bench.jitter --draw writes from here to the end mark) -->"
END = "<!-- jitter: end -->"
LABELS = {
    "upstream": "channels_redis 4.3 core",
    "upstream-pubsub": "channels_redis 4.3 Pub/Sub",
    "fast-direct": "channels_redis_fast core",
    "fast-pubsub-direct": "channels_redis_fast Pub/Sub",
    "fast-resumable": "channels_redis_fast core, Resumable",
    "fast-pubsub-resumable": "channels_redis_fast Pub/Sub, Resumable",
}
# Classes of `bench.charts`.
COLORS = {
    "upstream": "theirs",
    "upstream-pubsub": "theirs",
    "fast-direct": "ours",
    "fast-pubsub-direct": "ours2",
    "fast-resumable": "ours",
    "fast-pubsub-resumable": "ours2",
}
# Beside what the sending takes: for a server and its clients to start and to end on a busy machine.
PATIENCE = 240.0

Line = dict[str, Any]


def measure(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Let each contender have its turn, and return the report."""
    began = datetime.now(timezone.utc)
    sizes = {name: getattr(arguments, name) for name in ("clients", "messages", "rate", "every", "away")}
    options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    lines = []
    with server_from_environment() as server:
        about = machine(server.url)
        for layer in arguments.layer or LABELS:
            console.print(LABELS[layer], "...")
            python = ensure_python() if layer.startswith("upstream") else Path(sys.executable)
            words = ["--layer", layer, "--url", server.url, "--loop", arguments.loop, *options]
            timeout = PATIENCE + sizes["messages"] / sizes["rate"]
            lines.append(result_of(python, "bench.jittered", words, timeout))
        about["load_after"] = os.getloadavg()
    return {"began": began.isoformat(), "machine": about, "loop": arguments.loop, **sizes, "measurements": lines}


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def recovered(line: Line) -> float | None:
    """p99 of what a client missed while it was away; None where it cannot get that."""
    return line["recovered_p99_ms"] if line["layer"].endswith("-resumable") else None  # type: ignore[no-any-return]


def print_table(report: dict[str, Any], console: Console) -> None:
    heading = ("delivered", "repeated", "p50 ms", "p99 ms", "p99 ms after a\nreconnect")
    table = new_table("clients that are cut", "", *heading)
    for line in report["measurements"]:
        table.add_row(
            LABELS[line["layer"]].replace("channels_redis_fast", "ours:"),
            f"{line['percent']:.2f} %",
            colored(line["repeated"]),
            *(milliseconds(line[name]) for name in ("p50_ms", "p99_ms")),
            milliseconds(recovered(line)),
        )
    console.print(table)


def markdown(report: dict[str, Any], picture: str) -> str:
    """The measured part of the page."""
    about = report["machine"]
    load = f"{about['load'][0]:.1f} before and {about['load_after'][0]:.1f} after"
    rows = [
        "| | delivered | repeated | p50 | p99 | missed while away, p99 from the reconnect | server CPU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for line in report["measurements"]:
        late = milliseconds(recovered(line))
        rows.append(
            f"| {LABELS[line['layer']]} | **{line['percent']:.2f} %** | {line['repeated']:,} "
            f"| {milliseconds(line['p50_ms'])} ms | {milliseconds(line['p99_ms'])} ms "
            f"| {f'{late} ms' if late else '–'} | {line['server_cpu_seconds']:.1f} s |"
        )
    cuts = sum(line["cuts"] for line in report["measurements"]) // len(report["measurements"])
    return "\n".join([
        f"Measured {report['began'][:16].replace('T', ' ')} UTC on {about['processor']}, {about['cores']} cores, "
        f"{about['server']}, {report['loop']}; one run, load average {load}: {report['clients']} clients, "
        f"{report['messages']} messages at {report['rate']:g} per second, each client cut for {report['away']:g} s "
        f"about every {report['every']:g} s ({cuts:,} cuts).",
        "",
        f"![Share of the messages that reached their clients, and how late]({picture})",
        "",
        *rows,
        "",
    ])  # fmt: skip


def put_between(page: str, text: str) -> str:
    """The page with its measured part replaced. Raises ValueError when it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def draw(report: dict[str, Any], path: Path) -> None:
    """Two groups of bars: what was lost, and how late the last percent came."""
    lines: Sequence[Line] = report["measurements"]

    def rows(value: Callable[[Line], float | None]) -> list[Row]:
        return [Row(LABELS[line["layer"]], value(line), COLORS[line["layer"]]) for line in lines]

    groups = [
        ("messages that never arrived, %", rows(lambda line: round(100 - line["percent"], 2))),
        ("p99 from group_send to the client, of what arrived, ms", rows(lambda line: line["p99_ms"])),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    note = f"{report['clients']} clients, each cut for {report['away']:g} s about every {report['every']:g} s"
    path.write_text(bars("Clients that lose their connections", note, groups, one_scale=False) or "", encoding="utf-8")


def put_into_page(report: dict[str, Any], page: Path) -> None:
    """Write the measured part of the page, and its picture."""
    text = put_between(page.read_text(), markdown(report, f"images/{PICTURE}"))
    draw(report, page.parent / "images" / PICTURE)
    page.write_text(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.jitter", description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--messages", type=int, default=120)
    parser.add_argument("--rate", type=float, default=2.0, help="messages per second")
    parser.add_argument("--every", type=float, default=15.0, help="seconds from cut to cut, on the average")
    parser.add_argument("--away", type=float, default=2.0, help="seconds that a client stays away")
    parser.add_argument("--layer", action="append", choices=list(LABELS), help="only this one (repeatable)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="uvloop")
    parser.add_argument(
        "--json", type=Path, help="where to write the report (default bench/results/jitter-<time>.json)"
    )
    parser.add_argument("--draw", type=Path, metavar="FILE", help="measure nothing, and put this report into the page")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the marks")
    arguments = parser.parse_args(argv)
    if arguments.away * 2 >= arguments.every:
        parser.error("--every must be more than twice --away")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    console = Console()
    if arguments.draw is not None:
        put_into_page(json.loads(arguments.draw.read_text()), arguments.page)
        console.print(f"written: {arguments.page} and its picture", soft_wrap=True)
        return 0
    report = measure(arguments, console)
    print_table(report, console)
    path = arguments.json
    if path is None:
        path = ROOT / "bench" / "results" / f"jitter-{datetime.fromisoformat(report['began']):%Y%m%dT%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written: {path}", soft_wrap=True)
    # Whoever may come back for what it missed, misses nothing and gets nothing twice.
    resumable = [line for line in report["measurements"] if line["layer"].endswith("-resumable")]
    return int(any(line["percent"] < 100 or line["repeated"] or line["disordered"] for line in resumable))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServerError, ContenderError, OSError, ValueError) as error:
        sys.exit(f"bench.jitter: {error}")
