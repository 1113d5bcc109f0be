"""
``manage.py channels_worker``: does the jobs of general channels, several at once, and loses none when it is stopped.

It replaces Channels' ``runworker`` and uses the same routing: the application of the setting ASGI_APPLICATION, in the
scope ``channel``.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import get_channel_layer
from channels.routing import get_default_application
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...deploy import DrainedApplication, Worker
from ...options import delay

logger = logging.getLogger("channels_redis_fast")

#: The signals that stop the worker; a second one cancels the jobs that still run.
STOP = (signal.SIGTERM, signal.SIGINT)


class Command(BaseCommand):  # type: ignore[misc]
    """The command."""

    help = "Does the jobs of general channels. On SIGTERM it ends those it has begun; the others stay in Redis."

    leave_locale_alone = True

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare channels and options."""
        parser.add_argument("channels", nargs="+", metavar="CHANNEL", help="a general channel")
        parser.add_argument(
            "--concurrency", type=_count, default=1, metavar="N", help="jobs of each channel at once; 1 by default"
        )
        parser.add_argument(
            "--layer", default=DEFAULT_CHANNEL_LAYER, metavar="ALIAS", help="alias of the channel layer"
        )
        parser.add_argument(
            "--timeout",
            type=_seconds,
            metavar="SECONDS",
            help="how long jobs may take to end after SIGTERM; as long as they take by default",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker until it is stopped. Raises ``CommandError`` if it cannot do any job."""
        layer = get_channel_layer(options["layer"])
        if layer is None:
            raise CommandError(f"CHANNEL_LAYERS has no {options['layer']!r}.")
        application = get_default_application()
        if isinstance(application, DrainedApplication):
            # The worker handles its own end, and must not tell its jobs to leave.
            application = application.application
        asyncio.run(_run(application, layer, options))


async def _run(application: Any, layer: Any, options: dict[str, Any]) -> None:
    worker = Worker(application, options["channels"], layer, options["concurrency"], options["timeout"])
    working = asyncio.ensure_future(worker.run())

    def stop() -> None:
        logger.info("Stopping: no more jobs are taken, and those that have begun are waited for")
        for number in STOP:
            _handle(number, working.cancel)
        worker.stop()

    for number in STOP:
        _handle(number, stop)
    logger.info("Doing the jobs of %s, %d at once of each", ", ".join(options["channels"]), options["concurrency"])
    try:
        await asyncio.wait([working])
    finally:
        if hasattr(layer, "close_pools"):
            # After this, everything that goes back to Redis has arrived.
            await layer.close_pools()
    error = None if working.cancelled() else working.exception()
    if error is not None:
        raise CommandError(f"No jobs can be done: {type(error).__name__}: {error}") from error


def _handle(number: int, function: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, function)
    except NotImplementedError:
        # On Windows.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(function))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number of jobs: 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return delay("timeout", float(text))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no number of seconds") from None
