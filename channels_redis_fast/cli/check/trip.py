"""
Sends one message through the real layer on each server, which shows what the other checks do not cover.

Uses a channel of its own that nobody else knows. What remains of it in Redis expires within a minute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from redis.exceptions import ConnectionError

from ...base import RedisLayer
from ...core import RedisChannelLayer
from ...survey.line import Line, NodeLine
from ..deployment import Deployment
from ..texts import duration
from .findings import OK, PROBLEM, UNSEEN, Finding

#: How many seconds a message may take.
PATIENCE = 10.0

#: How many names are tried for each server until one of them belongs to it, and for how many seconds.
TRIES, SEARCH = 200, 30.0

#: Options that make processes known to each other.
_OF_PROCESSES = {"lease", "presence"}

MESSAGE = {"type": "channels_redis_fast.check", "text": "\u00e9", "number": 1}


async def check_trips(place: Deployment, servers: list[Line]) -> AsyncIterator[tuple[int, Finding]]:
    """Send and receive on each of these servers; yield the findings."""
    # Without the options that would list it among the processes of the site.
    layer = place.make_layer(**dict.fromkeys(_OF_PROCESSES & place.options.keys()))
    try:
        left = {line.index: line for line in servers}
        end = time.monotonic() + SEARCH
        for number in range(TRIES * max(layer.ring_size, len(servers))):
            if not left:
                return
            if time.monotonic() > end:
                break
            try:
                channel = await asyncio.wait_for(layer.new_channel(f"check{number}"), PATIENCE)
            except (ConnectionError, asyncio.TimeoutError):
                # A Pub/Sub layer subscribes at once, perhaps on a shard that is already known to be down.
                continue
            found = next((line for line in left.values() if _leads_to(layer, channel, line)), None)
            if found is not None:
                del left[found.index]
                yield found.index, await _trip(layer, channel)
                end = time.monotonic() + SEARCH
        for index in left:
            yield index, Finding(UNSEEN, "send and receive", "found no channel name on this server")
    finally:
        await layer.close_pools()


def _leads_to(layer: RedisLayer, channel: str, line: Line) -> bool:
    is_core = isinstance(layer, RedisChannelLayer)
    name = channel[: channel.find("!") + 1] if is_core else channel
    if isinstance(line, NodeLine):
        return line.has(f"{layer.prefix}{name}" if is_core else name)
    return layer.consistent_hash(name) == line.index


async def _trip(layer: RedisLayer, channel: str) -> Finding:
    item = "send and receive"
    try:
        # The first one opens the connections; the second is timed.
        for _ in range(2):
            began = time.perf_counter()
            await asyncio.wait_for(layer.send(channel, dict(MESSAGE)), PATIENCE)
            message = await asyncio.wait_for(layer.receive(channel), PATIENCE)
            taken = time.perf_counter() - began
    except asyncio.TimeoutError:
        return Finding(
            PROBLEM,
            item,
            f"no message arrived within {PATIENCE:g} s",
            "Does another program read or flush this prefix?",
        )
    except Exception as error:
        # The layer, a site's serializer or its capacities may raise anything; that error describes itself best.
        return Finding(
            PROBLEM, item, f"{type(error).__name__}: {error}", "The project's own sends raise the same error."
        )
    if message != MESSAGE:
        return Finding(
            PROBLEM,
            item,
            "the message that arrived differs from the one that was sent",
            "Check the serializer and its overrides.",
        )
    return Finding(OK, item, f"a message arrived in {duration(taken)}")
