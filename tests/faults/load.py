"""Load on a layer, and the ledger of what became of it: acknowledged, raised, received, lost, doubled, disordered.

A message says which flow it belongs to and its number there; a flow is what one sender sends, one message after the
other. Knows a layer only by its public API, and no fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from redis.exceptions import ConnectionError

from tests.core.helpers import LIMIT, started, until, within
from tests.pubsub.helpers import subscribers

#: Room for any load here: no message is refused, and none gives way.
ROOMY = 1_000_000

#: What "within one second" may take on a machine that stands still now and then: less than an answer may take, with the
#: fixture `long_answers`.
SOON = 30.0

LAST = {"type": "last"}

Letter = tuple[str, str, int]


class Ledger:
    """What was sent and what came, each message by its place (a channel, or a member's of a group), flow and number."""

    def __init__(self) -> None:
        self._numbers: dict[str, Any] = {}
        self._sent: set[Letter] = set()
        self._acknowledged: set[Letter] = set()
        self._raised: set[Letter] = set()
        self._received: Counter[Letter] = Counter()
        self._places: Counter[str] = Counter()
        self._orders: dict[tuple[str, str, str], list[int]] = {}
        #: The errors that sends raised.
        self.errors: list[Exception] = []

    @property
    def sent(self) -> int:
        return len(self._sent)

    @property
    def acknowledged(self) -> int:
        """How many were sent by a call that returned."""
        return len(self._acknowledged)

    @property
    def raised(self) -> int:
        """How many were sent by a call that raised: they may have arrived."""
        return len(self._raised)

    @property
    def received(self) -> int:
        return self._places.total()

    @property
    def lost(self) -> int:
        """How many were acknowledged and did not come."""
        return len(self._acknowledged - self._received.keys())

    def lost_of(self, flow: str) -> int:
        """How many of a flow were acknowledged and did not come."""
        return sum(name == flow for _, name, _ in self._acknowledged - self._received.keys())

    @property
    def doubled(self) -> int:
        """How many came that had come before: the number of each is its own, so not even a raised one may."""
        return self.received - len(self._received)

    @property
    def disordered(self) -> int:
        """How many a receiver got behind a later one of the same flow."""
        return sum(
            number < highest
            for numbers in self._orders.values()
            for number, highest in zip(numbers[1:], itertools.accumulate(numbers, max), strict=False)
        )

    @property
    def unknown(self) -> int:
        """How many came that nobody sent, or elsewhere than sent."""
        return len(self._received.keys() - self._sent)

    def __str__(self) -> str:
        names = ("sent", "acknowledged", "raised", "received", "lost", "doubled", "disordered", "unknown")
        return ", ".join(f"{getattr(self, name)} {name}" for name in names)

    def received_at(self, place: str) -> int:
        return self._places[place]

    async def send(self, layer: Any, channel: str, flow: str) -> None:
        """Send the flow's next message to a channel."""
        await self._enter(lambda message: layer.send(channel, message), flow, [channel])

    async def group_send(self, layer: Any, group: str, flow: str, places: Iterable[str]) -> None:
        """Send the flow's next message to a group, whose members are at these places."""
        await self._enter(lambda message: layer.group_send(group, message), flow, places)

    def take(self, message: dict[str, Any], place: str, receiver: str = "") -> None:
        """Enter a message that was received. Where several receive at one place, each has a name."""
        flow, number = message["flow"], message["n"]
        self._received[place, flow, number] += 1
        self._places[place] += 1
        self._orders.setdefault((place, flow, receiver), []).append(number)

    def check(self, *, lost: int = 0, ordered: bool = True) -> None:
        """Fail if more was lost than may be, or anything is wrong beyond that."""
        print(self)
        assert self.sent == self.acknowledged + self.raised, f"a send has no outcome: {self}"
        assert self.acknowledged, f"nothing was acknowledged: {self}"
        assert (self.doubled, self.unknown) == (0, 0), str(self)
        assert not ordered or not self.disordered, str(self)
        assert self.lost <= lost, f"at most {lost} may be lost: {self}"
        assert all("127.0.0.1:" in str(error) for error in self.errors), self.errors

    async def _enter(self, send: Callable[[dict[str, Any]], Awaitable[None]], flow: str, places: Iterable[str]) -> None:
        number = next(self._numbers.setdefault(flow, itertools.count()))
        letters = {(place, flow, number) for place in places}
        self._sent |= letters
        try:
            await send({"type": "load", "flow": flow, "n": number})
        except ConnectionError as error:
            self._raised |= letters
            self.errors.append(error)
        else:
            self._acknowledged |= letters


class Load:
    """Senders and receivers that run until they are told to stop; whatever happens to one of them is raised here."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._stopping = False
        self._senders: list[asyncio.Future[None]] = []
        self._receivers: list[asyncio.Future[None]] = []

    async def send(self, send: Callable[[], Awaitable[None]], at_once: int = 5) -> None:
        """Begin to send: so many at once, again and again, with a breath in between."""

        async def run() -> None:
            while not self._stopping:
                await asyncio.gather(*(send() for _ in range(at_once)))
                await asyncio.sleep(0.001)

        self._senders.append(await started(run()))

    async def receive(self, layer: Any, channel: str, receiver: str = "") -> None:
        """Begin to receive on a channel, up to the message that says that it is the last."""

        async def run() -> None:
            while (message := await layer.receive(channel)) != LAST:
                if message["type"] == "load":
                    self.ledger.take(message, channel, receiver)

        self._receivers.append(await started(run()))

    async def moves(self, count: int = 1, seconds: float = LIMIT) -> None:
        """Wait until so many more were received."""
        enough = self.ledger.received + count
        await self.until(lambda: self.ledger.received >= enough, seconds)

    async def moves_at(self, place: str, seconds: float = SOON) -> None:
        """Wait until something more was received at a place."""
        before = self.ledger.received_at(place)
        await self.until(lambda: self.ledger.received_at(place) > before, seconds)

    async def until(self, condition: Callable[[], bool], seconds: float = LIMIT) -> None:
        """Wait for a condition, while nobody falls over."""
        await until(lambda: condition() or self._fallen(), seconds)
        for task in [*self._senders, *self._receivers]:
            if task.done():
                task.result()

    async def stop_sending(self) -> None:
        """See every send end, one way or the other."""
        self._stopping = True
        await within(asyncio.gather(*self._senders))

    async def stop_receiving(self) -> None:
        """See every receiver get its last message; somebody has to send one for each."""
        await within(asyncio.gather(*self._receivers))

    def cancel(self) -> None:
        for task in [*self._senders, *self._receivers]:
            task.cancel()

    def _fallen(self) -> bool:
        return any(task.done() and not self._stopping for task in [*self._senders, *self._receivers])


@contextlib.asynccontextmanager
async def load_of(ledger: Ledger) -> AsyncIterator[Load]:
    """A load, none of which is left behind."""
    load = Load(ledger)
    try:
        yield load
    finally:
        load.cancel()
        await asyncio.gather(*load._senders, *load._receivers, return_exceptions=True)


async def until_empty(raws: Iterable[Any], key: str) -> None:
    """Wait until nothing lies in Redis under a channel's key, on no shard: it was all received, or lost."""
    await until(lambda: not any(raw.exists(key) for raw in raws))


async def until_subscribed(
    raws: Iterable[Any], layer: Any, channels: Iterable[str], groups: Iterable[str] = (), processes: int = 1
) -> None:
    """
    Wait until the servers know of a subscriber to each channel, and of so many to each group, on whichever shard.

    Dead ones have to be gone.
    """
    wanted = dict.fromkeys(channels, 1)
    wanted.update((f"{layer.prefix}__group__{group}", processes) for group in groups)
    await until(lambda: all(sum(subscribers(raw, name) for raw in raws) >= few for name, few in wanted.items()))


def key_of(layer: Any, channel: str) -> str:
    """The key of a channel of the core layer."""
    return str(layer.prefix + channel[: channel.find("!") + 1 or None])


async def channels_on_all_shards(layer: Any, each: int) -> list[str]:
    """New specific channels of a layer, so many on each of its shards, which take turns."""
    found: list[list[str]] = [[] for _ in range(layer.ring_size)]
    for number in itertools.count():
        channel = await layer.new_channel(f"kind{number}")
        shard = found[layer.consistent_hash(channel[: channel.find("!") + 1 or None])]
        if len(shard) < each:
            shard.append(channel)
        if all(len(shard) == each for shard in found):
            break
    return [channel for channels in zip(*found, strict=True) for channel in channels]
