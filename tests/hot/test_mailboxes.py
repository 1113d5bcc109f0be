"""Who waits for which channel, and who is handed what: the compiled table beside its twin."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.helpers import started, within


@pytest.fixture
def table(hot: Any) -> Any:
    """A table that stores nothing by itself, with its lock and a waker of the running loop."""

    class Table(hot.MailboxTable):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.lock = hot.Lock()
            super().__init__(self.lock)
            self.waker = hot.Waker(asyncio.get_running_loop())

        def _take(self, channel: str) -> Any:
            return self.pop(channel, 1.0).message

        def store(self, channel: str, *messages: Any) -> None:
            for message in messages:
                self.put(channel, hot.StoredMessage(message, 1.0, False), False)

        def wait(self, *channels: str) -> list[Any]:
            return [self.claim(channel, self.waker) for channel in channels]

        def give(self, *deliveries: Any) -> tuple[Any, int]:
            with self.lock:
                return self.hand_out(list(deliveries), self.waker)  # type: ignore[no-any-return]

    return Table


async def take(waiter: Any) -> Any:
    await waiter
    return waiter.take()


# Waiting.


async def test_receivers_wait_in_line(table: Callable[[], Any]) -> None:
    here = table()
    waiters = here.wait("one", "one", "other", "one")
    assert here.waiting == {"one": [waiters[0], waiters[1], waiters[3]], "other": waiters[2]}
    assert all(waiter.get_loop() is here.waker.loop and not waiter.done() for waiter in waiters)
    task = await started(take(waiters[1]))
    waiters[1].set_result("text")
    assert await within(task) == "text"


async def test_a_line_is_left(table: Callable[[], Any]) -> None:
    here = table()
    first, second, third, alone = here.wait("one", "one", "one", "other")
    assert (here.line("one"), here.line("other"), here.line("none")) == ([first, second, third], [alone], [])
    # What is returned is the caller's own.
    here.line("one").clear()
    here.leave("one", alone)
    here.leave("none", alone)
    here.leave("one", second)
    assert here.waiting == {"one": [first, third], "other": alone}
    assert here.next_in_line("one") is first
    assert here.waiting == {"one": third, "other": alone}
    [fourth] = here.wait("one")
    assert here.waiting["one"] == [third, fourth]
    assert [here.next_in_line(channel) for channel in ("one", "one", "one")] == [third, fourth, None]
    here.leave("other", alone)
    assert here.waiting == {}


async def test_what_is_stored_comes_first(table: Callable[[], Any]) -> None:
    here = table()
    here.store("one", {"n": 1}, None)
    first, second = here.wait("one", "one")
    assert first.take() == {"n": 1}
    # What was stored and has expired is nothing.
    assert not second.done()
    assert here.waiting == {"one": second}
    assert here.stored == {}


async def test_a_lock_is_given_back_whatever_happens(table: Callable[[], Any], hot: Any) -> None:
    here = table()
    here.stored["one"] = hot.Mailbox()
    with pytest.raises(IndexError, match=r"^an empty mailbox$"):
        here.wait("one")
    with pytest.raises(TypeError):
        here.wait([])
    with here.lock:
        pass


# Storing.


async def test_a_mailbox_keeps_the_order(table: Callable[[], Any], hot: Any) -> None:
    """Whatever was taken from its front, and put back there."""
    here = table()
    expected: list[int] = []
    for n in range(1000):
        here.store("one", n)
        expected.append(n)
        if n % 3:
            taken = here.pop("one")
            assert taken.message == expected.pop(0)
            assert taken.holders == 0
            if n % 7 == 0:
                assert here.put("one", taken, True) == len(expected) + 1
                expected.insert(0, taken.message)
        assert len(here.stored["one"]) == len(expected)
    assert [stored.message for stored in here.stored["one"]] == expected
    assert [here.pop("one").message for _ in expected] == expected
    assert here.pop("one") is None
    assert (here.stored, here.held) == ({}, 0)


async def test_what_comes_back_is_in_the_order_of_those_who_had_it(table: Callable[[], Any], hot: Any) -> None:
    """Whoever goes first; and it is before what nobody had."""
    here = table()
    here.store("one", "new")
    here.store("one", "newer")
    here.pop("one")
    for place in (2, 4, 1, 3):
        here.put("one", hot.StoredMessage(place, 1.0, False, place), True)
    assert [stored.message for stored in here.stored["one"]] == [1, 2, 3, 4, "newer"]
    assert [here.pop("one").place for _ in range(5)] == [1, 2, 3, 4, math.inf]


async def test_what_has_room_is_kept(table: Callable[[], Any], hot: Any) -> None:
    """A mailbox has room for one whatever its capacity; what somebody waits for, or has no capacity, is left."""
    here = table()
    here.wait("awaited")

    def capacity_of(channel: str) -> int:
        return {"none": 0, "one": 1, "two": 2, "awaited": 9}[channel]

    channels = ["none", "awaited", "one", "unknown", "two", "two", "one"]
    body = hot.StoredMessage({"n": 1}, 1.0, True)
    assert here.keep(channels, body, capacity_of) == ["awaited", "unknown", "one"]
    assert {channel: len(mailbox) for channel, mailbox in here.stored.items()} == {"none": 1, "one": 1, "two": 2}
    assert here.keep(channels, body, capacity_of) == channels
    assert body.holders == 4
    assert here.keep([], body, capacity_of) == []


async def test_what_is_not_shared_is_taken_at_once(table: Callable[[], Any], hot: Any) -> None:
    """By whoever holds it last, too; what has expired, or is to be copied, is the subclass' business."""
    asked: list[str] = []

    class Asking(type(table())):  # type: ignore[misc]
        def _take(self, channel: str) -> Any:
            asked.append(channel)
            return super()._take(channel)

    here = Asking()
    alone, shared, expired = ({"n": n} for n in range(3))
    here.put("alone", hot.StoredMessage(alone, math.inf, False), False)
    body = hot.StoredMessage(shared, math.inf, True)
    here.keep(["first", "last"], body, lambda channel: 1)
    here.put("expired", hot.StoredMessage(expired, 1.0, False), False)
    waiters = here.wait("alone", "first", "last", "expired")
    assert [waiter.take() for waiter in waiters] == [alone, shared, shared, expired]
    assert waiters[2].take() is shared
    assert asked == ["first", "expired"]
    assert (here.stored, here.held) == ({}, 0)


async def test_what_lies_in_several_mailboxes_counts_once(table: Callable[[], Any], hot: Any) -> None:
    here = table()
    shared = hot.StoredMessage({"text": "x" * 10_000}, 5.0, True)
    assert (shared.message, shared.deadline, shared.is_shared) == ({"text": "x" * 10_000}, 5.0, True)
    assert [here.put(channel, shared, False) for channel in ("a", "b", "b")] == [1, 1, 2]
    assert shared.holders == 3
    assert 10_000 < shared.size < here.held < 12_000
    assert [here.pop(channel) for channel in ("b", "b")] == [shared, shared]
    assert here.held > 10_000
    assert here.pop("a") is shared
    assert (shared.holders, here.held) == (0, 0)
    here.put("a", shared, False)
    here.clear()
    assert (here.stored, here.held) == ({}, 0)


async def test_when_somebody_received_last(table: Callable[[], Any]) -> None:
    here = table()
    before = time.monotonic()
    here.store("one", 1, 2, 3)
    mailbox = here.stored["one"]
    assert mailbox.channel == "one"
    assert before <= mailbox.last_received <= time.monotonic()
    here.pop("one", before + 100)
    here.pop("one")
    assert mailbox.last_received == before + 100


async def test_what_expires(table: Callable[[], Any], hot: Any) -> None:
    """Of each mailbox its oldest; what is kept until now is kept no longer."""
    here = table()
    assert here.expire(5.0) == (0, None)
    for channel, deadlines in {"a": (1.0, 2.0, 9.0, 1.0), "b": (5.0, 5.0), "c": (8.0,), "d": (7.0, 3.0)}.items():
        for deadline in deadlines:
            here.put(channel, hot.StoredMessage(deadline, deadline, False), False)
    assert here.expire(0.5) == (0, 1.0)
    assert here.expire(5.0) == (4, 7.0)
    left = {channel: [stored.message for stored in mailbox] for channel, mailbox in here.stored.items()}
    assert left == {"a": [9.0, 1.0], "c": [8.0], "d": [7.0, 3.0]}
    assert here.expire(math.inf) == (5, None)
    assert (here.stored, here.held) == ({}, 0)
    here.put("a", hot.StoredMessage(1, math.inf, False), False)
    assert here.expire(1e300) == (0, math.inf)


async def test_another_way_to_copy(hot: Any) -> None:
    copies: list[Any] = []

    def copy(message: Any) -> Any:
        copies.append(message)
        return {**message, "copy": len(copies)}

    table, waker = hot.MailboxTable(hot.Lock(), copy), hot.Waker(asyncio.get_running_loop())
    waiters = [table.claim(channel, waker) for channel in "abc"]
    message = {"n": 1}
    assert table.hand_out([(["a", "b", "c"], message)], waker) == ([], 3)
    assert [waiter.take() for waiter in waiters] == [message, {"n": 1, "copy": 1}, {"n": 1, "copy": 2}]
    assert copies == [message, message]


# Handing out.


async def test_who_waits_alone_here_is_served(table: Callable[[], Any], hot: Any) -> None:
    here = table()
    alone, _, _, gone, other = here.wait("alone", "two", "two", "gone", "other")
    elsewhere = here.claim("elsewhere", hot.Waker(asyncio.get_running_loop()))
    gone.cancel()
    names = ["alone", "two", "elsewhere", "gone", "nobody", "alone", None, ""]
    deliveries = [(name, {"n": n}) for n, name in enumerate(names)]
    left, given = here.give(*deliveries)
    assert left == deliveries[1:]
    assert given == 1
    assert alone.take() is deliveries[0][1]
    assert sorted(here.waiting) == ["elsewhere", "gone", "other", "two"]
    assert not other.done()
    assert not elsewhere.done()


@pytest.mark.parametrize("message", [{"n": 1, "text": "x"}, {"n": 1, "more": {"a": [1]}}], ids=["flat", "nested"])
async def test_each_of_a_group_owns_its_message(table: Callable[[], Any], message: Any) -> None:
    here = table()
    waiters = here.wait("a", "b", "c")
    expected = repr(message)
    left, given = here.give((["a", "b", "c"], message))
    assert (left, given) == ([], 3)
    messages = [waiter.take() for waiter in waiters]
    assert messages[0] is message
    assert [repr(one) for one in messages] == [expected] * 3
    owned = [thing for one in messages for thing in (one, one.get("more")) if thing is not None]
    assert len({id(thing) for thing in owned}) == len(owned)


async def test_what_is_left_of_a_group(table: Callable[[], Any]) -> None:
    here = table()
    (served,) = here.wait("b")
    message = {"n": 1}
    left, given = here.give((["a", "b", "c", "b"], message), ([], message), (["b"], message))
    assert given == 1
    assert served.take() == message
    assert served.take() is not message
    # The first comes last, and may have the original.
    assert left == [(["c", "b"], message), ("a", message), ("b", message)]
    assert all(delivery[1] is message for delivery in left)


async def test_order_within_a_channel(table: Callable[[], Any]) -> None:
    """What comes behind something that is left is left too."""
    here = table()
    (waiter,) = here.wait("a")
    deliveries = [("a", {"n": n}) for n in range(3)]
    left, given = here.give(*deliveries)
    assert waiter.take() == {"n": 0}
    assert (left, given) == (deliveries[1:], 1)


async def test_a_copy_that_fails_costs_no_waiter(table: Callable[[], Any]) -> None:
    here = table()
    deep: Any = {}
    for _ in range(600):
        deep = {"x": deep}
    _, second = here.wait("a", "b")
    # It is left, for whoever delivers the rest to hear of the error.
    here.give((["a", "b"], deep))
    assert not second.done()
    assert "b" in here.waiting


# The lock.


def test_a_lock_lets_one_in_at_a_time(hot: Any) -> None:
    lock = hot.Lock()
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(2000):
            with lock:
                before = count
                # Long enough for others to be let in, if they were.
                for _ in range(5):
                    pass
                count = before + 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count == 8000


def test_who_waits_for_a_lock_gets_it(hot: Any) -> None:
    lock = hot.Lock()
    reached = threading.Event()

    def wait() -> None:
        with lock:
            reached.set()

    lock.acquire()
    thread = threading.Thread(target=wait)
    thread.start()
    assert not reached.is_set()
    lock.release()
    thread.join(60)
    assert reached.is_set()


def test_a_lock_that_nobody_has(hot: Any) -> None:
    lock = hot.Lock()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="release unlocked lock"):
            lock.release()
    with lock:
        pass


async def test_wrong_arguments_are_no_crash(twins: Any) -> None:
    compiled, _ = twins
    waker = compiled.Waker(asyncio.get_running_loop())
    with pytest.raises(TypeError):
        compiled.MailboxTable(None)
    table = compiled.MailboxTable(compiled.Lock())
    for arguments in (("x", None), ("x", 1)):
        with pytest.raises(TypeError):
            table.claim(*arguments)
    for arguments in ((None, waker), ([], None), ([1], waker), ([("a",)], waker), ([["a", {}]], waker)):
        with pytest.raises(TypeError):
            table.hand_out(*arguments)
    waiter = waker.waiter()
    for waiters in ([object()], (waiter,), None, [], [waiter], 3):
        table.waiting["x"] = waiters
        assert table.hand_out([("x", {})], waker) == ([("x", {})], 0)
    table.stored["x"] = 1
    with pytest.raises(TypeError):
        table.claim("x", waker)
    message = compiled.StoredMessage({}, 1, False)
    for arguments in (("x", message, False), ("y", None, False), ([], message, False), ("y", 1, False)):
        with pytest.raises(TypeError):
            table.put(*arguments)
    for channel in ("x", []):
        with pytest.raises(TypeError):
            table.pop(channel)
    for arguments in (("y", message, len), (None, message, len), (["y"], None, len)):
        with pytest.raises(TypeError):
            table.keep(*arguments)
    # What cannot be told is left to the caller.
    assert table.keep(["x", "y", []], message, None) == ["x", "y", []]
    assert compiled.MailboxTable.__new__(compiled.MailboxTable).pop("x") is None


# How long messages were on their way.


async def test_a_message_whose_send_is_known_is_measured_when_it_is_taken(hot: Any) -> None:
    lag = hot.Histogram([1.0, 10.0])

    class Table(hot.MailboxTable):  # type: ignore[misc, name-defined]
        def _take(self, channel: str) -> Any:
            raise AssertionError(channel)

    here = Table(hot.Lock(), None, lag)
    waker = hot.Waker(asyncio.get_running_loop())
    now = time.monotonic()
    here.put("one", hot.StoredMessage({"n": 1}, math.inf, False, math.inf, now - 5), False)
    here.put("one", hot.StoredMessage({"n": 2}, math.inf, False), False)
    assert lag.count == 0
    assert [here.claim("one", waker).take() for _ in range(2)] == [{"n": 1}, {"n": 2}]
    # The other one's send is not known.
    assert lag.counts() == [0, 1, 0]


async def test_a_message_that_is_handed_in_is_measured_from_there(hot: Any) -> None:
    lag = hot.Histogram([1e-9, 1000.0])
    here = hot.MailboxTable(hot.Lock(), None, lag)
    waker = hot.Waker(asyncio.get_running_loop())
    waiter = here.claim("one", waker)
    assert here.hand_in("one", {"n": 1}, waker, lambda _: 5, 60.0) == 0
    # It was on its way for no time at all.
    assert lag.counts() == [1, 0, 0]
    before = time.monotonic()
    assert here.hand_in("one", {"n": 2}, waker, lambda _: 5, 60.0) > 0
    (stored,) = here.stored["one"]
    assert before <= stored.sent_at <= time.monotonic()
    assert stored.deadline == pytest.approx(stored.sent_at + 60)
    assert (waiter.take(), here.claim("one", waker).take()) == ({"n": 1}, {"n": 2})
    assert lag.count == 2


# One message to one channel.


async def test_a_message_is_handed_in(table: Callable[[], Any]) -> None:
    here = table()
    asked: list[str] = []

    def capacity_of(channel: str) -> int:
        asked.append(channel)
        return 2

    def hand_in(channel: str, message: Any) -> int:
        return here.hand_in(channel, message, here.waker, capacity_of, 5.0)  # type: ignore[no-any-return]

    (waiter,) = here.wait("one")
    message = {"n": 1}
    assert hand_in("one", message) == 0
    assert waiter.take() is message
    assert asked == []
    before = time.monotonic()
    assert hand_in("one", {"n": 2}) == here.held > 0
    held = here.held
    assert held + hand_in("one", {"n": 3}) == here.held
    assert hand_in("one", {"n": 4}) == -1
    assert asked == ["one", "one"]
    assert [stored.message["n"] for stored in here.stored["one"]] == [2, 3]
    assert all(5 <= stored.deadline - before < 60 for stored in here.stored["one"])
    assert all(not stored.is_shared and stored.holders == 1 for stored in here.stored["one"])
    assert here.pop("one").place == math.inf
    # Several wait, or one in another loop: whose turn it is, the caller knows.
    first, _ = here.wait("two", "two")
    assert hand_in("two", {}) == -1
    here.leave("two", first)
    other = asyncio.new_event_loop()
    here.claim("three", type(here.waker)(other))
    assert hand_in("three", {}) == -1
    other.close()
    assert list(here.stored) == ["one"]


async def test_a_message_that_is_handed_in_and_not_measured(hot: Any) -> None:
    lag = hot.Histogram([1000.0])
    here = hot.MailboxTable(hot.Lock(), None, lag)
    waker = hot.Waker(asyncio.get_running_loop())
    here.claim("one", waker)
    assert here.hand_in("one", {"n": 1}, waker, lambda _: 5, 60.0, False) == 0
    assert here.hand_in("one", {"n": 2}, waker, lambda _: 5, 60.0, False) > 0
    assert [stored.sent_at for stored in here.stored["one"]] == [0.0]
    assert here.claim("one", waker).take() == {"n": 2}
    assert lag.count == 0


async def test_deliveries_of_busy_consumers_are_kept_in_order(table: Callable[[], Any]) -> None:
    here = table()
    here.wait("awaited")
    here.store("full", {"n": -1})

    def capacity_of(channel: str) -> int:
        return {"own": 2, "one": 5, "full": 1}[channel]

    to: list[Any] = ["one", None, "one", ["one"], "one", "awaited", "full", "one", "unknown", "unknown", "own", None]
    deliveries = [(address, {"n": number}) for number, address in enumerate(to)]
    ends = [here.keep_from(deliveries, at, "own", capacity_of, 7.0, 3.0) for at in (0, 4, 6, 7, 9, 10, 12, 99)]
    # Of an unknown channel the first is stored: who has nothing has room for one.
    assert ends == [3, 5, 6, 8, 9, 11, 12, 99]
    kept = {channel: [stored.message["n"] for stored in box] for channel, box in here.stored.items()}
    assert kept == {"full": [-1], "one": [0, 2, 4, 7], "own": [1, 10]}
    stored = here.pop("one")
    assert (stored.deadline, stored.sent_at, stored.is_shared, stored.holders, stored.place) == (
        7,
        3,
        False,
        0,
        math.inf,
    )


async def test_a_capacity_that_cannot_be_told_stores_nothing(table: Callable[[], Any]) -> None:
    here = table()
    here.store("one", {})

    def capacity_of(channel: str) -> int:
        raise LookupError(channel)

    with pytest.raises(LookupError):
        here.hand_in("one", {}, here.waker, capacity_of, 5.0)
    assert len(here.stored["one"]) == 1
    # The lock is free again.
    assert here.hand_in("two", {}, here.waker, capacity_of, 5.0) > 0


async def test_what_several_are_given_is_copied_when_it_is_taken(table: Callable[[], Any]) -> None:
    here = table()
    waiters = here.wait("one", "two", "three")
    message = {"n": 1}
    assert here.give((["one", "two", "three"], message)) == ([], 3)
    taken = [waiter.take() for waiter in waiters]
    assert taken[0] is message
    # Again, or by the other name, it is the same one.
    assert all(waiter.take() is waiter.result() is mine for waiter, mine in zip(waiters, taken, strict=True))
    taken[0]["n"] = taken[1]["n"] = 2
    assert taken[2] == {"n": 1}
