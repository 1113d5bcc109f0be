"""`make demo`: a chat room of 200 WebSocket consumers on our layers, beside upstream's and the in-memory one.

Starts its own server (or takes REDIS_URL), runs every contender in a process of its own and prints what each delivered
and lost. Fails when one of ours lost or repeated a message. What happens on the site is in `bench.chat`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.chat import PHASES, USERS
from bench.processes import Contender, ContenderError, contenders, lines_of, result_of
from bench.server import Server, ServerError, server_from_environment
from bench.sizes import QUICK
from bench.tables import colored, new_table

ALONE = ("pairs", "group", "roundtrip")
TIMEOUT = 120.0
# For each phase on the chat site, so that all contenders together take about a minute.
SECONDS = 2.5


def visit_site(contender: Contender, url: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """The contender's chat site, from the first user's arrival to the count of the last message."""
    options = ["--layer", contender.layer, "--url", url, "--seconds", str(SECONDS)]
    for line in lines_of(contender.python, "bench.chat", options, TIMEOUT):
        if "phase" in line:
            tell(f"{contender.label}: {USERS} consumers, {line['phase']}")
        else:
            result: dict[str, Any] = line["result"]
            return result
    raise ContenderError(f"{contender.label} printed no result")


def measure_alone(contender: Contender, url: str, tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """The same layer without Channels' consumers around it, whose own work would hide the difference."""
    results = {}
    for workload in ALONE:
        tell(f"{contender.label}: the layer alone, {workload}")
        size = str(QUICK[workload][contender.layer])
        options = ["--layer", contender.layer, "--workload", workload, "--n", size, "--url", url]
        results[workload] = result_of(contender.python, "bench.contender", options, TIMEOUT)
    return results


def run_all(rows: list[Contender], url: str, console: Console) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=len(rows) * (len(PHASES) + len(ALONE)))

        def tell(what: str) -> None:
            progress.update(task, description=what)
            progress.advance(task)
            if not console.is_terminal:
                console.print(what)

        return [(visit_site(row, url, tell), measure_alone(row, url, tell)) for row in rows]


def site_table(rows: list[Contender], sites: list[dict[str, Any]]) -> Table:
    table = new_table(
        f"{USERS} WebSocket consumers in one room, through Channels",
        *("layer", "broadcast\nframes/s", "direct\nsends/s", "p50 µs", "p99 µs", "sent", "lost"),
    )
    for row, site in zip(rows, sites, strict=True):
        table.add_row(
            row.label,
            f"{site['broadcast_per_second']:,.0f}",
            f"{site['direct_per_second']:,.0f}",
            f"{site['p50_us']:,.0f}",
            f"{site['p99_us']:,.0f}",
            f"{site['meant']:,}",
            colored(site["lost"]),
        )
    return table


def alone_table(rows: list[Contender], alone: list[dict[str, dict[str, Any]]]) -> Table:
    table = new_table(
        "the layer alone, without the consumers' own work",
        *("layer", "50 pairs\nmsgs/s", "group of\n1000, /s", "p50 µs", "p99 µs", "sent", "lost"),
    )
    for row, results in zip(rows, alone, strict=True):
        table.add_row(
            row.label,
            f"{results['pairs']['per_second']:,.0f}",
            f"{results['group']['per_second']:,.0f}",
            f"{results['roundtrip']['p50_us']:,.0f}",
            f"{results['roundtrip']['p99_us']:,.0f}",
            f"{sum(result['sent'] for result in results.values()):,}",
            colored(sum(result["lost"] for result in results.values())),
        )
    return table


def faults_of(site: dict[str, Any], alone: dict[str, dict[str, Any]]) -> int:
    return int(site["lost"] + site["repeated"] + sum(run["lost"] + run["repeated"] for run in alone.values()))


def main() -> int:
    console = Console()
    rows = contenders()
    with server_from_environment() as server:
        whose = f"{server.binary}, ours for this run" if isinstance(server, Server) else "REDIS_URL"
        console.print(f"server: {whose}", soft_wrap=True)
        outcomes = run_all(rows, server.url, console)
    console.print(site_table(rows, [site for site, _ in outcomes]))
    console.print(alone_table(rows, [alone for _, alone in outcomes]))
    ours = [faults_of(*outcome) for row, outcome in zip(rows, outcomes, strict=True) if row.ours]
    if any(ours):
        console.print(f"[red]our layers lost or repeated {sum(ours):,} messages[/]")
        return 1
    console.print("[green]our layers delivered every message exactly once[/]")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServerError, ContenderError) as error:
        sys.exit(f"bench.demo: {error}")
