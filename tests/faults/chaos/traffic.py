"""Producers and consumers of a round, as the plan wants them. Knows a layer by its public API alone, and no server."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from redis.exceptions import RedisError

from tests.faults.chaos.plan import Fault, Plan
from tests.faults.chaos.record import ACKNOWLEDGED, RAISED, Record

#: Seconds that a call may take: twice the time after which an unanswered command means a dead connection, and more.
LIMIT = 30.0
GROUP, JOBS = "room", "jobs"
CONNECTION_ERRORS = (RedisError, OSError)


class Target:
    """Where a producer sends: one kind, the name for the layer, and the places where a message has to come."""

    def __init__(self, kind: str, name: str, places: tuple[str, ...]) -> None:
        self.kind, self.name, self.places = kind, name, places


class Traffic:
    def __init__(self, plan: Plan, record: Record, sender: Any, receiver: Any) -> None:
        self._plan, self._record, self._sender, self._receiver = plan, record, sender, receiver
        self._stopping = threading.Event()
        self._tasks: list[asyncio.Future[None]] = []
        self._threads: list[threading.Thread] = []
        self._receives: set[asyncio.Future[Any]] = set()
        self._consuming: list[asyncio.Future[None]] = []
        self._numbers: dict[str, Any] = {}
        self._chance = random.Random(repr(plan))
        self.targets: list[Target] = []

    async def start(self) -> None:
        plan, layer = self._plan, self._receiver
        for number in range(plan.specific):
            name = await layer.new_channel()
            self.targets.append(Target("specific", name, (f"specific{number}",)))
            self._consume(name, f"specific{number}", "one")
        members = []
        for number in range(plan.members):
            name = await layer.new_channel()
            await layer.group_add(GROUP, name)
            members.append(f"member{number}")
            self._consume(name, members[-1], "one")
        self.targets.append(Target("group", GROUP, tuple(members)))
        self.targets.append(Target("general", JOBS, ("jobs",)))
        for number in range(plan.general):
            self._consume(JOBS, "jobs", f"here{number}")
        # Only what listens gets something from Pub/Sub.
        await self._until_all_receive("start")

    def produce(self) -> None:
        for number in range(self._plan.producers):
            if self._plan.callers == "hub":
                thread = threading.Thread(target=self._produce_in_thread, args=(number,), daemon=True)
                thread.start()
                self._threads.append(thread)
            else:
                self._tasks.append(asyncio.ensure_future(self._produce(number)))

    async def stop_sending(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)
        for number, thread in enumerate(self._threads):
            await asyncio.get_running_loop().run_in_executor(None, thread.join, LIMIT + 5)
            if thread.is_alive():
                self._record.stuck.append(f"thread {number} in a call of layer.sync")

    async def finish(self, patience: float) -> None:
        """See that every place receives again, send a last few to each, and wait for all that may come."""
        if self._record.stuck:
            # One call that hangs is enough; the next ones would wait as long, one after the other.
            for task in self._consuming:
                task.cancel()
            await asyncio.wait(self._consuming, timeout=1.0)
            return
        await self._until_all_receive("end")
        for _ in range(3):
            for target in self.targets:
                await self._send(target, "last")
        loop = asyncio.get_running_loop()
        count, since = -1, loop.time()
        while loop.time() - since < patience and self._record.missing():
            if len(self._record.receipts) != count:
                count, since = len(self._record.receipts), loop.time()
            await asyncio.sleep(0.02)
        # For what comes again.
        await asyncio.sleep(0.3)
        tasks = list(self._consuming)
        for task in tasks:
            task.cancel()
        done = asyncio.gather(*tasks, return_exceptions=True)
        try:
            await asyncio.wait_for(done, LIMIT)
        except asyncio.TimeoutError:
            self._record.stuck.append("a receive that was cancelled")

    async def apply(self, fault: Fault) -> None:
        await getattr(self, f"_{fault.name}")(fault)

    # Sending.

    async def _produce(self, number: int) -> None:
        for target in itertools.cycle(self.targets[number % len(self.targets) :] + self.targets):
            if self._stopping.is_set():
                return
            flow = f"flow{number}.{target.name if target.kind != 'specific' else target.places[0]}"
            await asyncio.gather(*(self._send(target, flow) for _ in range(self._plan.burst)))
            await asyncio.sleep(0.002)

    def _produce_in_thread(self, number: int) -> None:
        for target in itertools.cycle(self.targets[number % len(self.targets) :] + self.targets):
            if self._stopping.is_set():
                return
            self._send_in_thread(target, f"thread{number}.{target.places[0]}")

    def _next(self, flow: str) -> dict[str, Any]:
        return {"type": "chaos", "flow": flow, "n": next(self._numbers.setdefault(flow, itertools.count()))}

    async def _send(self, target: Target, flow: str, call: Callable[..., Awaitable[None]] | None = None) -> bool:
        """Send one message; returns whether it was acknowledged."""
        flow = f"{flow}.{target.kind}.{target.places[0]}"
        message = self._next(flow)
        send = self._record.begin(flow, message["n"], target.kind, target.places)
        call = call or (self._sender.group_send if target.kind == "group" else self._sender.send)
        try:
            await asyncio.wait_for(call(target.name, dict(message)), LIMIT)
        except asyncio.TimeoutError:
            self._record.stuck.append(f"send {flow} {message['n']}, begun at {send.begun:.3f}")
        except CONNECTION_ERRORS as error:
            self._record.end(send, RAISED, repr(error))
        except Exception as error:
            self._record.end(send, RAISED, repr(error))
            self._record.errors.append(f"send {flow} {message['n']}: {error!r}")
        else:
            self._record.end(send, ACKNOWLEDGED)
            return True
        return False

    def _send_in_thread(self, target: Target, flow: str) -> None:
        message = self._next(flow)
        send = self._record.begin(flow, message["n"], target.kind, target.places)
        call = self._sender.sync.group_send if target.kind == "group" else self._sender.sync.send
        try:
            call(target.name, dict(message), timeout=LIMIT)
        except TimeoutError:
            self._record.stuck.append(f"sync send {flow} {message['n']}, begun at {send.begun:.3f}")
        except CONNECTION_ERRORS as error:
            self._record.end(send, RAISED, repr(error))
        except Exception as error:
            self._record.end(send, RAISED, repr(error))
            self._record.errors.append(f"sync send {flow} {message['n']}: {error!r}")
        else:
            self._record.end(send, ACKNOWLEDGED)

    # Receiving.

    def _consume(self, channel: str, place: str, receiver: str) -> None:
        self._consuming.append(asyncio.ensure_future(self._receive(channel, place, receiver)))

    async def _receive(self, channel: str, place: str, receiver: str) -> None:
        while True:
            task = asyncio.ensure_future(self._receiver.receive(channel))
            self._receives.add(task)
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled() and task.exception() is None:
                    self._record.take(task.result(), place, receiver)
                raise
            finally:
                self._receives.discard(task)
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                self._record.take(task.result(), place, receiver)
            elif isinstance(error, CONNECTION_ERRORS):
                await asyncio.sleep(0.01)
            else:
                self._record.errors.append(f"receive at {place}: {error!r}")
                await asyncio.sleep(0.01)

    async def _until_all_receive(self, flow: str) -> None:
        """Send to each target until each of its places has got one."""
        deadline = asyncio.get_running_loop().time() + LIMIT
        for target in self.targets:
            while True:
                await self._send(target, flow)
                if await self._came(target, f"{flow}.{target.kind}.{target.places[0]}"):
                    break
                if asyncio.get_running_loop().time() > deadline:
                    self._record.stuck.append(f"{target.kind} {target.places} at the {flow}: nothing comes any more")
                    break

    async def _came(self, target: Target, flow: str) -> bool:
        for _ in range(50):
            if {receipt.place for receipt in self._record.receipts if receipt.flow == flow} >= set(target.places):
                return True
            await asyncio.sleep(0.01)
        return False

    # What happens to a process.

    async def _cancel(self, fault: Fault) -> None:
        for _ in range(20):
            for task in list(self._receives):
                task.cancel()
            await asyncio.sleep(self._chance.random() * fault.seconds / 20)

    async def _close_senders(self, fault: Fault) -> None:
        await self._close(self._sender, fault)

    async def _close_receivers(self, fault: Fault) -> None:
        await self._close(self._receiver, fault)

    async def _close(self, layer: Any, fault: Fault) -> None:
        """Every other time somebody is in a hurry, and then closes again."""
        try:
            if fault.number % 2:
                await asyncio.wait_for(layer.close_pools(), 0.001)
            else:
                await asyncio.wait_for(layer.close_pools(), LIMIT)
        except asyncio.TimeoutError:
            if fault.number % 2 == 0:
                self._record.stuck.append("close_pools")
        except CONNECTION_ERRORS:
            pass

    async def _fork(self, fault: Fault) -> None:
        """A child sends one message in a loop of its own, and ends."""
        target = self.targets[fault.number % len(self.targets)]
        flow = f"fork{fault.number}.{len(self._record.sends)}"
        send = self._record.begin(flow, 0, target.kind, target.places)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            self._be_a_child(target, {"type": "chaos", "flow": flow, "n": 0})
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LIMIT
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):  # noqa: ASYNC222 - does not wait
            if loop.time() > deadline:
                os.kill(pid, 9)
                os.waitpid(pid, 0)  # noqa: ASYNC222 - it was killed
                self._record.stuck.append(f"the child of the fork at {send.begun:.3f}")
                return
            await asyncio.sleep(0.01)
        self._record.end(send, ACKNOWLEDGED if ended[1] == 0 else RAISED)

    def _be_a_child(self, target: Target, message: dict[str, Any]) -> None:
        code = 1
        try:
            call = self._sender.group_send if target.kind == "group" else self._sender.send
            asyncio.new_event_loop().run_until_complete(call(target.name, message))
            code = 0
        finally:
            os._exit(code)
