"""``inspect``: the live picture of one deployment, once or refreshed, as tables or as JSON. Read-only."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from ...survey.picture import take_picture
from ...survey.scan import MAX_KEYS
from ...survey.servers import are_current, lines
from ...survey.snapshot import Picture
from .. import deployment
from ..values import argument, count, seconds_within

if TYPE_CHECKING:
    from rich.console import Console

HELP = "Show what is in Redis now: channels and how full they are, groups, histories, presence, connections, leftovers."
EXAMPLE = "channels-redis-fast inspect --settings mysite.settings --watch 2"

#: The number of rows in a table unless an option says otherwise.
TOP = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``inspect``."""
    parser.add_argument(
        "--watch",
        nargs="?",
        type=argument(seconds_within(0.1, 86400)),
        const=2.0,
        metavar="TIME",
        help="refresh until Ctrl-C, every 2 seconds or every TIME, such as 500ms; fits the terminal's height",
    )
    parser.add_argument("--json", action="store_true", help="print JSON with all rows; with --watch one line each time")
    parser.add_argument(
        "--top", type=argument(count(1)), default=TOP, metavar="N", help=f"rows of each table (default: {TOP})"
    )
    parser.add_argument(
        "--max-keys",
        type=argument(count(1)),
        default=MAX_KEYS,
        metavar="N",
        help=f"stop after so many keys of each server, so that a large database is not scanned whole "
        f"(default: {MAX_KEYS})",
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Show the picture; return 1 if a shard could not be examined."""
    from .view import render  # noqa: PLC0415 - needs the extra, which --help does not

    place = deployment.find(arguments)
    if arguments.watch is None:
        picture = asyncio.run(_look_once(place, arguments.max_keys))
        if arguments.json:
            _print_json(console, picture.as_dict(), indent=2)
        else:
            console.print(render(picture, arguments.top))
        return int(picture.has_failed)
    # Ctrl-C is the normal end of watching.
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(place, arguments, console))
    return 0


async def _look_once(place: deployment.Deployment, max_keys: int) -> Picture:
    layer = place.make_layer()
    async with lines(layer, "inspect") as shards:
        return await take_picture(place.name, layer, shards, max_keys)


async def _watch(place: deployment.Deployment, arguments: argparse.Namespace, console: Console) -> None:
    from rich.live import Live  # noqa: PLC0415 - of the extra
    from rich.text import Text  # noqa: PLC0415

    from .view import Screen, render  # noqa: PLC0415

    async with contextlib.aclosing(_pictures(place, arguments)) as pictures:
        if arguments.json or not console.is_terminal:
            async for picture in pictures:
                if arguments.json:
                    _print_json(console, picture.as_dict())
                else:
                    console.print(render(picture, arguments.top), Text(""))
            return
        last: Picture | None = None
        try:
            with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
                async for last in pictures:
                    live.update(Screen(last, arguments.top), refresh=True)
        finally:
            if last is not None:
                # The alternate screen that it was shown on is gone.
                console.print(render(last, arguments.top))


async def _pictures(place: deployment.Deployment, arguments: argparse.Namespace) -> AsyncGenerator[Picture, None]:
    layer = place.make_layer()
    while True:
        async with lines(layer, "inspect") as shards:
            # A server that has gone is retried each time, without waiting for it; a cluster may have changed by then.
            while True:
                yield await take_picture(place.name, layer, shards, arguments.max_keys)
                await asyncio.sleep(arguments.watch)
                if not await are_current(shards):
                    break


def _print_json(console: Console, value: dict[str, Any], indent: int | None = None) -> None:
    # Not with rich, which would wrap it and add colours.
    console.file.write(json.dumps(value, indent=indent) + "\n")
    console.file.flush()
