"""``check``: connects to every shard with the project's settings and reports item by item whether it works."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

from .. import deployment
from .findings import Report
from .order import check_all

if TYPE_CHECKING:
    from rich.console import Console

HELP = "Connect to every shard with these settings, and report errors and likely problems item by item."
EXAMPLE = "channels-redis-fast check --settings mysite.settings --alias default"

#: How many keys of each database are examined for traces of other settings.
MAX_KEYS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``check``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Check and show the report; return 1 if something does not work."""
    from .view import render  # noqa: PLC0415 - needs the extra, which --help does not

    place = deployment.find(arguments)
    report = asyncio.run(_check(place, console, quiet=arguments.json))
    if arguments.json:
        console.file.write(json.dumps(report.as_dict(), indent=2) + "\n")
    else:
        console.print(render(report))
    return int(report.has_problem)


async def _check(place: deployment.Deployment, console: Console, quiet: bool) -> Report:
    if quiet or not console.is_terminal:
        return await check_all(place, MAX_KEYS, lambda what: None)
    with console.status("Checking") as status:
        return await check_all(place, MAX_KEYS, lambda what: status.update(f"Checking {what}"))
