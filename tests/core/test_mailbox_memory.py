"""What mailboxes hold: one body for all that a group message waits in, and a bound on all mailboxes of a process."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.hot import Waker
from channels_redis_fast.messages import memory_limit
from channels_redis_fast.messages.mailbox import Mailboxes, MailboxLimits
from channels_redis_fast.messages.memory_limit import MemoryLimit
from channels_redis_fast.stats import Stats
from tests.core.helpers import started, within

KB = "x" * 1000


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> MemoryLimit:
    """A process in which there are no other layers."""
    limit = MemoryLimit()
    monkeypatch.setattr("channels_redis_fast.messages.mailbox.PROCESS", limit)
    return limit


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(memory_limit, "MAX_BYTES", 100_000)
    return 100_000


class Office:
    """Mailboxes of a layer of their own, and a waker."""

    def __init__(self, expiry: float = 60.0, capacity: int = 1000, copy: Any = None) -> None:
        self.stats = Stats()
        self.limits = MailboxLimits(expiry, lambda channel: capacity, self.stats, copy)
        self.boxes = Mailboxes(self.limits)
        self.waker = Waker(asyncio.get_running_loop())

    def give(self, *deliveries: Any) -> int:
        return self.boxes.deliver(list(deliveries), self.waker)

    def take(self, channel: str) -> Any:
        """Return what is stored for a channel, None if there is nothing."""
        waiter = self.boxes.claim(channel, self.waker)
        if waiter.done():
            return waiter.take()
        self.boxes.abandon(channel, waiter)
        return None

    def drain(self, channel: str) -> list[Any]:
        messages = []
        while (message := self.take(channel)) is not None:
            messages.append(message)
        return messages


# One body.


async def test_a_message_to_many_is_stored_once() -> None:
    here = Office()
    names = [f"c{n}" for n in range(1000)]
    assert here.give((names, {"text": "x" * 100_000, "tags": ["a"]})) == 1000
    # The first has the original, the others one body between them.
    assert 200_000 < here.boxes.held < 1_000_000
    messages = [here.take(name) for name in names]
    assert all(message == {"text": "x" * 100_000, "tags": ["a"]} for message in messages)
    assert len({id(message) for message in messages}) == len({id(message["tags"]) for message in messages}) == 1000
    assert here.boxes.held == 0


@pytest.mark.parametrize("order", ["the receiver first", "the mailbox first"])
async def test_what_a_receiver_does_with_its_message_is_its_own(order: str) -> None:
    here = Office()
    waiting = [here.boxes.claim(name, here.waker) for name in ("a", "d")]
    names = ["a", "b", "c", "d"] if order == "the receiver first" else ["b", "c", "a", "d"]
    here.give((names, {"n": 1, "tags": ["x"]}))
    for message in [waiter.take() for waiter in waiting] + [here.take("b")]:
        assert message == {"n": 1, "tags": ["x"]}
        message["tags"].append("mine")
        message["n"] = 2
    assert here.take("c") == {"n": 1, "tags": ["x"]}


async def test_several_wait_for_one_channel() -> None:
    """Each gets a copy of the shared body, those that are gone cost nobody a message."""
    here = Office()
    waiters = [here.boxes.claim("a", here.waker) for _ in range(3)]
    waiters[0].cancel()
    for n in range(3):
        here.give((["a", "b"], {"n": n, "tags": []}))
    for waiter in waiters[1:]:
        waiter.take()["tags"].append("mine")
    assert [waiter.take()["n"] for waiter in waiters[1:]] == [0, 1]
    assert here.drain("a") == [{"n": 2, "tags": []}]
    assert here.drain("b") == [{"n": n, "tags": []} for n in range(3)]
    assert here.boxes.held == 0


async def test_what_another_serializer_makes_is_copied_as_it_needs() -> None:
    class Thing:
        """Not of those that msgpack knows."""

        def __init__(self) -> None:
            self.tags: list[str] = []

    here = Office(copy=deepcopy)
    waiter = here.boxes.claim("b", here.waker)
    here.give((["a", "b", "c", "d"], {"thing": Thing()}))
    things = [message["thing"] for message in (here.take("a"), waiter.take(), here.take("c"), here.take("d"))]
    assert len(set(things)) == len({id(thing.tags) for thing in things}) == 4


async def test_a_message_that_cannot_be_copied_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    copies: list[Any] = []

    def copy(message: Any) -> Any:
        copies.append(message)
        if message["n"] == 0 or (message["n"] == 1 and len(copies) > 3):
            raise ValueError("no copies")
        return dict(message)

    here = Office(copy=copy)
    for n in range(3):
        here.give((["a", "b", "c"], {"n": n}))
    # The first has the original. What was stored and then fails is skipped when it is received.
    assert [here.drain(name) for name in "abc"] == [[{"n": n} for n in numbers] for numbers in ([0, 1, 2], [2], [1, 2])]
    assert here.stats.undecodable == 2
    assert len([record for record in caplog.records if "no copies" in record.getMessage()]) == 2
    assert here.boxes.held == 0


# What is held is counted.


async def test_whatever_leaves_is_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Office(capacity=3)
    names = ["a", "b", "c"]

    def fill() -> None:
        for n in range(5):
            here.give((names, {"n": n, "text": KB}), ("a", {"text": KB}))
        assert here.boxes.held > 3000

    fill()
    assert here.stats.dropped == 5 * 4 - 3 * 3
    with here.limits.lock:
        here.boxes.clear()
    assert here.boxes.held == 0
    fill()
    with here.limits.lock:
        for name in names:
            here.boxes.forget(name)
    assert here.boxes.held == 0
    fill()
    for name in names:
        here.drain(name)
    assert here.boxes.held == 0
    fill()
    with here.limits.lock:
        assert 0 < (here.boxes.drop_expired() or 0) <= 60
    held = here.boxes.held
    monkeypatch.setattr("channels_redis_fast.messages.mailbox.time.monotonic", lambda: math.inf)
    with here.limits.lock:
        assert here.boxes.drop_expired() is None
    assert held > here.boxes.held == 0
    assert here.stats.expired == 9


async def test_what_goes_back_is_counted() -> None:
    here = Office()
    waiter = here.boxes.claim("a", here.waker)
    here.give(("a", {"n": 0, "text": KB}), ("a", {"n": 1, "text": KB}))
    one = here.boxes.held
    here.boxes.abandon("a", waiter)
    assert one < here.boxes.held < 2 * one
    assert [message["n"] for message in here.drain("a")] == [0, 1]
    assert here.boxes.held == 0


# The bound.


async def test_messages_to_invented_channels_are_bounded(bound: int, caplog: pytest.LogCaptureFixture) -> None:
    """The oldest give way, counted and said once; what came last is there."""
    here = Office()
    caplog.set_level(logging.WARNING)
    for n in range(1000):
        here.give((f"invented{n}", {"n": n, "text": KB}))
        assert here.boxes.held <= bound
    left = [n for n in range(1000) if here.take(f"invented{n}") is not None]
    assert left == list(range(1000 - len(left), 1000))
    assert len(left) > 40
    assert here.stats.dropped == 1000 - len(left)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "channels_redis_fast"]
    assert "beginning with channels that nobody receives on" in line


async def test_who_receives_keeps_its_messages(bound: int) -> None:
    """However old they are: those go first that nobody has received on for longest."""
    here = Office()
    here.give(*[("busy", {"n": n, "text": KB}) for n in range(20)])
    received = []
    for n in range(170):
        here.give((f"invented{n}", {"n": n, "text": KB}))
        if n % 10 == 0:
            received.append(here.take("busy")["n"])
    assert received == list(range(17))
    assert [message["n"] for message in here.drain("busy")] == [17, 18, 19]
    assert here.stats.dropped > 100
    assert here.boxes.held <= bound


async def test_a_body_that_many_share_goes_with_the_last_of_them(bound: int) -> None:
    here = Office()
    names = [f"gone{n}" for n in range(50)]
    for n in range(200):
        here.give((names, {"n": n, "text": KB}))
        assert here.boxes.held <= bound
    left = here.drain(names[-1])
    assert [message["n"] for message in left] == list(range(200 - len(left), 200))
    assert here.stats.dropped > 0


async def test_a_message_larger_than_the_bound_is_kept(bound: int) -> None:
    here = Office()
    for n in range(3):
        here.give((f"c{n}", {"n": n, "text": "x" * 2 * bound}))
    assert [here.take(f"c{n}") is not None for n in range(3)] == [False, False, True]
    for n in range(3):
        here.give(("c", {"n": n, "text": "x" * 2 * bound}))
    assert [message["n"] for message in here.drain("c")] == [2]


async def test_the_layers_of_a_process_are_bounded_together(bound: int) -> None:
    """Whoever stores, what goes is what nobody has received for longest, in whichever layer."""
    old, new = Office(), Office()
    old.give(*[(f"old{n}", {"n": n, "text": KB}) for n in range(50)])
    for n in range(30):
        new.give((f"new{n}", {"n": n, "text": KB}))
        assert old.boxes.held + new.boxes.held <= bound
    assert new.stats.dropped == 0
    assert old.stats.dropped > 0
    assert all(new.take(f"new{n}") for n in range(30))


async def test_a_layer_that_is_gone_is_not_counted(bound: int, process: MemoryLimit) -> None:
    for _ in range(20):
        here = Office()
        here.give(*[(f"c{n}", {"text": KB}) for n in range(40)])
        assert here.stats.dropped == 0
        del here
        gc.collect()


async def test_messages_that_are_received_are_not_counted_for_ever(bound: int) -> None:
    here = Office()
    for n in range(1000):
        here.give(("c", {"n": n, "text": KB}))
        assert here.take("c")["n"] == n
    assert here.stats.dropped == 0


async def test_several_threads_fill_mailboxes(bound: int) -> None:
    """Each its own layer's: nobody waits for a lock that waits for another, and the count ends at nothing."""
    offices = [Office() for _ in range(3)]

    def fill(here: Office) -> None:
        for n in range(500):
            here.give((f"c{n}", {"n": n, "text": KB}), ([f"c{n}", f"d{n}"], {"n": n}))

    threads = [threading.Thread(target=fill, args=[here]) for here in offices]
    for thread in threads:
        thread.start()
    for thread in threads:
        await within(asyncio.to_thread(thread.join))
    offices[0].give(("last", {"text": KB}))
    assert sum(here.boxes.held for here in offices) <= bound
    for here in offices:
        for name in list(here.boxes.stored):
            here.drain(name)
        assert here.boxes.held == 0


async def test_a_forked_child_begins_anew(bound: int, process: MemoryLimit, monkeypatch: pytest.MonkeyPatch) -> None:
    """It touches no mailbox of its parent, whose lock another thread may have held."""
    parent = Office()
    parent.give(*[(f"c{n}", {"text": KB}) for n in range(50)])
    monkeypatch.setattr(process._process, "number", -1)
    child = Office()
    with parent.limits.lock:
        child.give(*[(f"c{n}", {"text": KB}) for n in range(200)])
    assert parent.stats.dropped == 0
    assert child.boxes.held <= bound


async def test_with_a_server(
    make_layer: Callable[..., RedisChannelLayer], bound: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Invented names beside a receiver, which misses nothing."""
    caplog.set_level(logging.WARNING)
    layer = make_layer(capacity=10_000)
    channel = await layer.new_channel()
    client = channel.partition("!")[0]
    for start in range(0, 400, 100):
        receiving = await started(layer.receive(channel))
        for n in range(start, start + 100):
            await layer.send(f"{client}!invented{n}", {"text": KB})
        await layer.send(channel, {"n": start})
        assert await within(receiving) == {"n": start}
    assert 200 < layer.stats()["dropped"] < 400
    (inbox,) = layer._inboxes.inboxes.values()
    assert inbox.held <= bound
    assert len([record for record in caplog.records if "nobody receives on" in record.getMessage()]) == 1
