"""`make demo`: a chat room of 200 WebSocket consumers on our layers, beside upstream's and the in-memory one; then the
same with real WebSockets on uvicorn and with our consumers.

Starts its own server (or takes REDIS_URL), runs every contender in a process of its own and prints what each delivered
and lost. Fails when one of ours lost or repeated a message. What happens on the site is in `bench.chat`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.cases import CASES
from bench.chat import PHASES, USERS
from bench.processes import Contender, ContenderError, contenders, dispatched, lines_of, result_of
from bench.server import Server, ServerError, server_from_environment
from bench.sizes import CHECK, QUICK
from bench.tables import colored, new_table

ALONE = ("pairs", "group", "roundtrip")
# With real WebSockets on uvicorn.
SOCKETS = "sockets-200"
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


def visit_sockets(contender: Contender, url: str, tell: Callable[[str], None]) -> dict[str, Any]:
    """The whole site: uvicorn, real WebSocket clients, and another process that broadcasts."""
    tell(f"{contender.label}: uvicorn and real WebSockets")
    size = str(CHECK[SOCKETS][contender.layer])
    options = ["--layer", contender.layer, "--workload", SOCKETS, "--n", size, "--url", url]
    return result_of(contender.python, "bench.contender", options, TIMEOUT)


def socket_rows(rows: list[Contender]) -> list[Contender]:
    """Upstream beside our layers under our consumers, and how far these are from a loop over the sockets."""
    upstream = [row for row in rows if row.layer.startswith("upstream")]
    return upstream + [row for row in dispatched(Path(sys.executable)) if CHECK[SOCKETS].get(row.layer)]


Outcome = tuple[dict[str, Any], dict[str, dict[str, Any]]]


def run_all(
    rows: list[Contender], sockets: list[Contender], url: str, console: Console
) -> tuple[list[Outcome], list[dict[str, Any]]]:
    """What each of `rows` did on the chat site and alone, and each of `sockets` with real clients."""
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        steps = len(rows) * (len(PHASES) + len(ALONE)) + len(sockets)
        task = progress.add_task("starting", total=steps)

        def tell(what: str) -> None:
            progress.update(task, description=what)
            progress.advance(task)
            if not console.is_terminal:
                console.print(what)

        outcomes = [(visit_site(row, url, tell), measure_alone(row, url, tell)) for row in rows]
        return outcomes, [visit_sockets(row, url, tell) for row in sockets]


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


def socket_table(rows: list[Contender], results: list[dict[str, Any]]) -> Table:
    table = new_table(
        f"the whole site: {CASES[SOCKETS].parameters['clients']} real WebSockets on uvicorn, in one room",
        *("layer", "frames/s", "x up-\nstream", "p50 ms", "p99 ms", "sent", "lost"),
    )
    speed = {row.layer: result["per_second"] for row, result in zip(rows, results, strict=True)}
    for row, result in zip(rows, results, strict=True):
        table.add_row(
            row.label,
            f"{result['per_second']:,.0f}",
            f"{result['per_second'] / speed[row.against]:.1f}" if row.against else "",
            f"{result['p50_us'] / 1000:,.1f}",
            f"{result['p99_us'] / 1000:,.1f}",
            f"{result['sent']:,}",
            colored(result["lost"]),
        )
    return table


def faults_of(*runs: dict[str, Any]) -> int:
    return int(sum(run["lost"] + run["repeated"] for run in runs))


def main() -> int:
    console = Console()
    rows = contenders()
    sockets = socket_rows(rows)
    with server_from_environment() as server:
        whose = f"{server.binary}, ours for this run" if isinstance(server, Server) else "REDIS_URL"
        console.print(f"server: {whose}", soft_wrap=True)
        outcomes, visits = run_all(rows, sockets, server.url, console)
    console.print(site_table(rows, [site for site, _ in outcomes]))
    console.print(alone_table(rows, [alone for _, alone in outcomes]))
    console.print(socket_table(sockets, visits))
    ours = [faults_of(site, *alone.values()) for row, (site, alone) in zip(rows, outcomes, strict=True) if row.ours]
    ours += [faults_of(visit) for row, visit in zip(sockets, visits, strict=True) if row.ours]
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
