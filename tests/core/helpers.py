"""Waiting without sleeping, and looking at the server from outside. Knows no layer.

Every wait here is for a condition and ends with an error when its time is over: nothing hangs, nothing is slept out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pytest

T = TypeVar("T")

#: Seconds: far beyond what anything here takes on a machine that does much else, far below pytest's own limit.
LIMIT = 60.0


async def within(awaitable: Awaitable[T], seconds: float = LIMIT) -> T:
    return await asyncio.wait_for(awaitable, seconds)


async def until(condition: Callable[[], bool], seconds: float = LIMIT) -> None:
    """Return as soon as the condition holds."""

    async def poll() -> None:
        # Nobody would set an event: the conditions are those of the server, or of another process.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    await within(poll(), seconds)


async def started(awaitable: Awaitable[T]) -> asyncio.Future[T]:
    """A task that has run up to its first wait."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(0)
    return task


async def receive_many(layer: Any, channel: str, count: int) -> list[dict[str, Any]]:
    async def receive() -> list[dict[str, Any]]:
        return [await layer.receive(channel) for _ in range(count)]

    return await within(receive())


async def nothing_to_receive(layer: Any, channel: str) -> None:
    """Prove that nothing waits on a channel: of all messages the next one there is one sent now."""
    await layer.send(channel, {"type": "last"})
    assert await within(layer.receive(channel)) == {"type": "last"}


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and see them end."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with pytest.raises(asyncio.CancelledError):
            await task


def on_database(url: str, number: int) -> str:
    """The same server's database `number`: as a shard as good as a server of its own."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


def named(url: str, name: str) -> dict[str, Any]:
    """A host whose connections carry a name, by which `clients` finds them."""
    return {"address": url, "client_name": name}


def clients(raw: Any, name: str) -> list[dict[str, Any]]:
    """What the server knows of the connections with that name."""
    return [client for client in raw.client_list() if client["name"] == name]


def waiting(raw: Any, name: str) -> list[dict[str, Any]]:
    """
    Return those of the connections with that name that wait in a blocking pop.

    Or, on a cluster, for word of a message: there no wait is for several keys.
    """
    return [client for client in clients(raw, name) if "b" in client["flags"] or int(client.get("ssub", 0))]


def blocked(raw: Any, name: str) -> int:
    """How many of the connections with that name wait for messages."""
    return len(waiting(raw, name))
