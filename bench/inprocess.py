"""Real consumers whose clients are queues in the same process: what the dispatch costs, without server and sockets.

`layer` is the one that the settings name, which is what the consumers use. Knows no layer; what a consumer does and who
dispatches to it is in `bench.dispatch`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from bench.dispatch import ROOM, frame, number_of, room_consumer
from bench.loads import Goal, resident
from bench.workloads import QUIET, SETTLE, WAIT, Clock, Inbox, Result, finish, result_of, spawn, until_quiet

Event = dict[str, Any]
Send = Callable[[Event], Awaitable[None]]


class Client:
    """One WebSocket, as the ASGI server sees it: events in a queue, frames in a list."""

    def __init__(self, application: Any) -> None:
        self.frames: list[str] = []
        self.arrived: Callable[[], None] = lambda: None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._accepted = asyncio.Event()
        scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "subprotocols": []}
        self._events.put_nowait({"type": "websocket.connect"})
        self._running = asyncio.ensure_future(application(scope, self._events.get, self._send))

    async def _send(self, event: Event) -> None:
        if event["type"] == "websocket.send":
            self.frames.append(event["text"])
            self.arrived()
        elif event["type"] == "websocket.accept":
            self._accepted.set()

    def say(self, text: str) -> None:
        self._events.put_nowait({"type": "websocket.receive", "text": text})

    async def accepted(self) -> None:
        await self._accepted.wait()

    async def leave(self) -> None:
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self._running


async def connect(dispatch: str, count: int) -> list[Client]:
    """So many clients, all accepted; in batches, since upstream opens a connection to Redis for each at once."""
    application = room_consumer(dispatch).as_asgi()
    clients: list[Client] = []
    for start in range(0, count, 100):
        batch = [Client(application) for _ in range(min(100, count - start))]
        await asyncio.wait_for(asyncio.gather(*(client.accepted() for client in batch)), WAIT)
        clients += batch
    # Upstream's Pub/Sub layer does not wait for its subscriptions.
    await asyncio.sleep(SETTLE)
    return clients


async def leave(clients: list[Client]) -> None:
    await finish(spawn(client.leave() for client in clients))


def inboxes_of(clients: list[Client]) -> list[Inbox]:
    return [Inbox([number_of(text) for text in client.frames]) for client in clients]


def forget_frames(clients: list[Client]) -> None:
    for client in clients:
        client.frames.clear()


async def room(layer: Any, *, dispatch: str, count: int, clients: int = 200) -> Result:
    """`count` broadcasts to one room, each when the last is with every client: processor time for each frame.

    The sender's own time is part of it; it is the same for all dispatches.
    """
    everyone = await connect(dispatch, clients)
    clock = Clock()

    async def broadcast(number: int) -> None:
        goal = Goal(clients)
        for client in everyone:
            client.arrived = goal.arrived
        await layer.group_send(ROOM, frame(number))
        await asyncio.wait_for(goal.reached(), QUIET)

    for number in range(3):
        await broadcast(number)
    forget_frames(everyone)
    with clock.measure():
        try:
            for number in range(count):
                await broadcast(number)
        except asyncio.TimeoutError:
            clock.seconds -= QUIET
    result = result_of(clients * count, inboxes_of(everyone), clock)
    result.extra = {"cpu_per_frame_us": clock.cpu_seconds / max(1, result.received) * 1e6}
    await leave(everyone)
    return result


async def echo(_layer: Any, *, dispatch: str, count: int, clients: int = 200) -> Result:
    """Each client says something, `count` times, when the last answer is there: frame, handler, frame."""
    everyone = await connect(dispatch, clients)
    clock = Clock()

    async def converse(count: int) -> None:
        goal = Goal(clients * count)

        def answer(client: Client) -> Callable[[], None]:
            texts = iter([frame(number)["text"] for number in range(1, count)])

            def arrived() -> None:
                goal.arrived()
                text = next(texts, None)
                if text is not None:
                    client.say(text)

            return arrived

        for client in everyone:
            client.arrived = answer(client)
        with clock.measure():
            for client in everyone:
                client.say(frame(0)["text"])
            heard = lambda: sum(len(client.frames) for client in everyone)  # noqa: E731
            await until_quiet(spawn([goal.reached()]), heard, clock)

    await converse(3)
    forget_frames(everyone)
    clock = Clock()
    await converse(count)
    result = result_of(clients * count, inboxes_of(everyone), clock)
    await leave(everyone)
    return result


async def idle(layer: Any, *, dispatch: str, count: int) -> Result:
    """`count` consumers that wait: memory of each. Then each gets one broadcast, as proof that it waited."""
    # What the first consumer imports and opens is not a consumer's.
    first = await connect(dispatch, 1)
    await layer.group_send(ROOM, frame(0))
    await leave(first)
    gc.collect()
    before = resident()
    everyone = await connect(dispatch, count)
    gc.collect()
    occupied = resident() - before
    clock = Clock()
    goal = Goal(count)
    for client in everyone:
        client.arrived = goal.arrived
    with clock.measure():
        await layer.group_send(ROOM, frame(0))
        heard = lambda: sum(len(client.frames) for client in everyone)  # noqa: E731
        await until_quiet(spawn([goal.reached()]), heard, clock)
    result = result_of(count, inboxes_of(everyone), clock)
    result.extra = {"kib_per_consumer": occupied / count / 1024}
    await leave(everyone)
    return result
