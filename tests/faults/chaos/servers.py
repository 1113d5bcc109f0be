"""Servers of each kind, and the faults that happen to them and to the ways there. Knows no layer."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

import redis

from bench.server import Server, start_server
from tests.clusters import QUICK, Cluster
from tests.faults.chaos.plan import Fault
from tests.places import PASSWORD, SentinelSet, raw_client
from tests.proxy import Proxy, proxy_to

#: Written before it is acknowledged, so that a server that comes back has all that it said it had.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, call, *arguments)


class Unsettled(Exception):
    """The servers did not do among themselves what a round needs, such as a failover, in the time that it takes."""


@contextmanager
def _unsettled() -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise Unsettled(str(error)) from error


class Servers:
    """Servers of one kind that run, and what can happen to them; use `routing` for the time of a round."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._stack = ExitStack()
        self._plain: list[Server] = []
        self._set: SentinelSet | None = None
        self._cluster: Cluster | None = None
        self._proxies: list[list[Proxy]] = []

    def __enter__(self) -> Servers:
        if self.kind == "sentinel":
            self._set = self._stack.enter_context(SentinelSet())
        elif self.kind == "cluster":
            self._cluster = self._stack.enter_context(Cluster(3, 1, *QUICK))
        else:
            count = 2 if self.kind == "ring" else 1
            self._plain = [self._stack.enter_context(start_server(*DURABLE)) for _ in range(count)]
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def shards(self) -> int:
        """How many servers a layer receives from at once."""
        return 3 if self._cluster is not None else max(len(self._plain), 1)

    @property
    def hosts(self) -> list[Any]:
        """The `hosts` of a layer that goes straight to the servers, as one in another process."""
        if self._set is not None:
            return [self._set.host]
        return [server.url for server in self._plain] if self._cluster is None else [self._cluster.host]

    @asynccontextmanager
    async def router(self, sides: int) -> AsyncIterator[list[list[Any]]]:
        """The `hosts` of so many layers, each with ways of its own to plain servers, which can be cut."""
        if self._set is not None or self._cluster is not None:
            host = self._set.host if self._set is not None else self._cluster.host  # type: ignore[union-attr]
            yield [[host] for _ in range(sides)]
            return
        async with AsyncExitStack() as stack:
            self._proxies = [
                [await stack.enter_async_context(proxy_to(server.port)) for server in self._plain] for _ in range(sides)
            ]
            yield [[proxy.url for proxy in proxies] for proxies in self._proxies]

    @property
    def running(self) -> list[Server]:
        if self._set is not None:
            return [self._set.primary]
        if self._cluster is not None:
            return [node.server for node in self._cluster.primaries]
        return self._plain

    async def apply(self, fault: Fault) -> None:
        """Let it happen; returns when it is over and the servers serve. Raises `Unsettled`."""
        with _unsettled():
            await getattr(self, f"_{fault.name}")(fault)

    async def settle(self) -> None:
        """Return when all servers are as they were, so that the next round begins from there. Raises `Unsettled`."""
        with _unsettled():
            if self._set is not None:
                await in_thread(self._set.settle)
            elif self._cluster is not None:
                await in_thread(self._cluster.settle)

    async def _one(self, fault: Fault) -> Server:
        running = await in_thread(lambda: self.running)
        return running[fault.number % len(running)]  # type: ignore[no-any-return]

    def _raw(self, server: Server) -> redis.Redis:
        return raw_client(server.port, PASSWORD if self._set is not None else None)

    async def _kill(self, fault: Fault) -> None:
        def kill(server: Server) -> None:
            with self._raw(server) as raw:
                for kind in ("normal", "pubsub"):
                    raw.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

        await in_thread(kill, await self._one(fault))

    async def _script_flush(self, fault: Fault) -> None:
        def flush(server: Server) -> None:
            with self._raw(server) as raw:
                raw.script_flush()

        await in_thread(flush, await self._one(fault))

    async def _pause(self, fault: Fault) -> None:
        server = await self._one(fault)
        pid = server.pid
        assert pid is not None
        # Shorter than the time after which others take a stopped node for dead.
        seconds = fault.seconds / 5 if self._set is not None or self._cluster is not None else fault.seconds
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    # What happens on the way.

    def _proxy(self, fault: Fault) -> Proxy:
        proxies = [proxy for side in self._proxies for proxy in side]
        return proxies[fault.number % len(proxies)]

    async def _stall(self, fault: Fault) -> None:
        proxy = self._proxy(fault)
        proxy.stall()
        await asyncio.sleep(fault.seconds)
        proxy.go_on()

    async def _cut(self, fault: Fault) -> None:
        self._proxy(fault).cut()

    async def _cut_after(self, fault: Fault) -> None:
        proxy = self._proxy(fault)
        proxy.cut_after(1 + fault.number)
        await asyncio.sleep(fault.seconds)
        if not proxy.has_cut():
            # Too few bytes came: the last ones are the next, whatever they are.
            proxy.cut_after(1)

    async def _refuse(self, fault: Fault) -> None:
        proxy = self._proxy(fault)
        proxy.refuse()
        await asyncio.sleep(fault.seconds)
        await proxy.accept()

    async def _delay(self, fault: Fault) -> None:
        proxy = self._proxy(fault)
        proxy.delay = fault.seconds / 10
        await asyncio.sleep(fault.seconds)
        proxy.delay = 0.0

    async def _slice(self, fault: Fault) -> None:
        proxy = self._proxy(fault)
        proxy.slicing = True
        await asyncio.sleep(fault.seconds)
        proxy.slicing = False

    # What happens to servers for good.

    async def _restart(self, fault: Fault, empty: bool) -> None:
        server = await self._one(fault)

        def end() -> None:
            # Not in the middle of a write to disk, after which it would load something else than it had.
            server.stall()
            server.kill()
            if empty:
                shutil.rmtree(server.directory / "appendonlydir", ignore_errors=True)

        await in_thread(end)
        await asyncio.sleep(fault.seconds / 3)
        await in_thread(server.restart)

    async def _restart_aof(self, fault: Fault) -> None:
        await self._restart(fault, empty=False)

    async def _restart_empty(self, fault: Fault) -> None:
        await self._restart(fault, empty=True)

    async def _failover(self, fault: Fault) -> None:
        if self._set is not None:
            await in_thread(self._set.settle)
            await in_thread(self._set.failover)
        elif self._cluster is not None:
            primaries = await in_thread(lambda: self._cluster.primaries)  # type: ignore[union-attr]
            await in_thread(self._cluster.failover, primaries[fault.number % len(primaries)])

    async def _kill_primary(self, fault: Fault) -> None:
        if self._set is not None:
            await in_thread(self._set.settle)
            await in_thread(self._set.kill_primary)
            await in_thread(self._set.settle)
        elif self._cluster is not None:
            primaries = await in_thread(lambda: self._cluster.primaries)  # type: ignore[union-attr]
            dead = primaries[fault.number % len(primaries)]
            await in_thread(self._cluster.kill_primary, dead)
            await in_thread(self._cluster.revive, dead)
