"""What the tests of synchronous callers share: places that show what arrived, threads, programs of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tests.conftest import ROOT
from tests.core.helpers import LIMIT
from tests.proxy import Proxy, proxy_to

#: More than any test sends to one channel.
ROOMY = 1_000_000


def wait_until(condition: Callable[[], bool], seconds: float = LIMIT) -> None:
    """Return as soon as the condition holds, which is the server's or another thread's."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for does not come"
        time.sleep(0.002)


@contextmanager
def count_opened(url: str) -> Iterator[Callable[[], int]]:
    """How many connections a server has taken since then, as a function."""
    with redis.Redis.from_url(url, single_connection_client=True) as client:
        before = client.info("stats")["total_connections_received"]
        yield lambda: client.info("stats")["total_connections_received"] - before


class Place:
    """A channel and a group with it, and what arrived there, in order."""

    channel, group = "target", "room"

    def __init__(self, layer: Any, url: str) -> None:
        self.layer = layer
        self._raw = redis.Redis.from_url(url)

    def messages(self) -> list[Any]:
        """All that has arrived."""
        raise NotImplementedError

    def heard(self, count: int) -> list[Any]:
        """The messages, when there are `count`."""
        wait_until(lambda: len(self.messages()) >= count)
        return self.messages()

    def close(self) -> None:
        self._raw.close()


class Stored(Place):
    """On the core layer: what is stored on the channel's key."""

    def __init__(self, layer: Any, url: str) -> None:
        super().__init__(layer, url)
        self._raw.zadd(f"{layer.prefix}:group:{self.group}", {self.channel: time.time()})

    def messages(self) -> list[Any]:
        return [
            self.layer.deserialize(member) for member in self._raw.zrange(f"{self.layer.prefix}{self.channel}", 0, -1)
        ]


class Published(Place):
    """On the Pub/Sub layer: what a subscriber hears."""

    def __init__(self, layer: Any, url: str) -> None:
        super().__init__(layer, url)
        self.channel = f"{layer.prefix}{self.channel}"
        self._heard: list[Any] = []
        self._subscriber = self._raw.pubsub(ignore_subscribe_messages=True)
        self._subscriber.subscribe(self.channel, f"{layer.prefix}__group__{self.group}")
        wait_until(lambda: self._raw.pubsub_numsub(self.channel)[0][1] == 1)

    def messages(self) -> list[Any]:
        while (found := self._subscriber.get_message(timeout=0)) is not None or self._subscriber.connection.can_read():
            if found is not None:
                self._heard.append(self.layer.deserialize(found["data"]))
        return self._heard

    def close(self) -> None:
        self._subscriber.close()
        super().close()


def in_threads(number: int, work: Callable[[int], Any]) -> list[Any]:
    """Do the work in so many threads at once; their results or errors in order."""
    outcomes: list[Any] = [None] * number

    def run(index: int) -> None:
        try:
            outcomes[index] = work(index)
        except BaseException as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * LIMIT)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return outcomes


class Link:
    """A `Proxy` whose loop runs in a thread, for tests that have none."""

    def __init__(self, proxy: Proxy, loop: asyncio.AbstractEventLoop) -> None:
        self.proxy, self.url, self._loop = proxy, proxy.url, loop

    def do(self, what: Callable[[], None]) -> None:
        """Have the proxy do something, in its loop, and wait for it."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (what(), done.set()))
        assert done.wait(LIMIT)


@contextmanager
def link_to(port: int) -> Iterator[Link]:
    ready, links, ended = threading.Event(), [], asyncio.Event()

    async def serve() -> None:
        async with proxy_to(port) as proxy:
            links.append(Link(proxy, asyncio.get_running_loop()))
            ready.set()
            await ended.wait()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(LIMIT)
        yield links[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(LIMIT)
        loop.close()


def run_program(program: str, *arguments: str, seconds: float = 60, **environment: str) -> Any:
    """Run a program in a process of its own, with warnings as errors; what it said, and how it ended."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
