"""``HeldSignal`` in an event loop, whichever way a server takes SIGTERM in it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from channels_redis_fast.deploy.signals import HeldSignal
from tests.core.helpers import until

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    before = signal.getsignal(signal.SIGTERM)
    loop = LOOPS[request.param]()
    yield loop
    loop.close()
    signal.signal(signal.SIGTERM, before)
    signal.set_wakeup_fd(-1)


def by_the_loop(came: Callable[[], None]) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, came)


def by_the_interpreter(came: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: came())


@pytest.mark.parametrize("take", [by_the_loop, by_the_interpreter])
@pytest.mark.parametrize("is_first", [True, False])
def test_it_is_held_until_it_is_released(loop: asyncio.AbstractEventLoop, take: Any, is_first: bool) -> None:
    """Other signals are not; and it does not matter who was there first."""

    async def main() -> None:
        arrived, server, other = [], [], asyncio.Event()
        held = HeldSignal(lambda: arrived.append(1))
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, other.set)
        if is_first:
            held.watch(asyncio.get_running_loop())
        take(lambda: server.append(1))
        # With the next connection.
        assert held.watch(asyncio.get_running_loop())
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: bool(arrived) and other.is_set())
        for _ in range(5):
            await asyncio.sleep(0)
        assert (arrived, server) == ([1], [])
        held.release()
        await until(lambda: server == [1])
        # From now on it goes where it went.
        held.watch(asyncio.get_running_loop())
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: server == [1, 1])
        other.clear()
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(other.is_set)
        assert arrived == [1]

    loop.run_until_complete(main())


@pytest.mark.parametrize("take", [by_the_loop, by_the_interpreter])
def test_a_second_one_goes_through(loop: asyncio.AbstractEventLoop, take: Any) -> None:
    async def main() -> None:
        arrived, server = [], []
        held = HeldSignal(lambda: arrived.append(1))
        take(lambda: server.append(1))
        held.watch(asyncio.get_running_loop())
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: bool(arrived))
        await until(lambda: bool(server))
        held.release()
        await asyncio.sleep(0.01)
        assert (arrived, server) == ([1], [1])

    loop.run_until_complete(main())


def test_another_loop_in_the_same_thread(loop: asyncio.AbstractEventLoop) -> None:
    """As granian runs one, once for the start of the application and once for its connections."""
    arrived, server = [], []
    held = HeldSignal(lambda: arrived.append(1))

    async def begin() -> None:
        held.watch(asyncio.get_running_loop())

    async def main() -> None:
        held.watch(asyncio.get_running_loop())
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: bool(arrived))
        assert not server
        held.release()
        await until(lambda: server == [1])

    first = asyncio.new_event_loop()
    first.run_until_complete(begin())
    first.close()
    loop.add_signal_handler(signal.SIGTERM, lambda: server.append(1))
    loop.run_until_complete(begin())
    loop.run_until_complete(main())
