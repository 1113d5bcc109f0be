"""Which message goes into which call: the compiled gatherer beside its twin."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.helpers import end


@pytest.fixture
def gatherer(hot: Any) -> Callable[..., Any]:
    """A gatherer that keeps the batches it opened, and says when it wrote early."""
    return _gatherer_of(hot)


def _gatherer_of(hot: Any) -> Callable[..., Any]:
    class Kept(hot.Gatherer):  # type: ignore[misc, name-defined]
        def __init__(self, loop: Any, *limits: int) -> None:
            super().__init__(hot.Waker(loop), *limits)
            self.opened: list[Any] = []
            self.early: list[int] = []
            self.nothing_else = False

        def _open(self) -> Any:
            self.opened.append(hot.Batch())
            self.is_idle = self.nothing_else
            return self.opened[-1]

        def _write_early(self) -> None:
            self.early.append(self.opened[-1].messages)
            self.seal(self.opened[-1])

    return Kept


MANY = (100, 100, 100, 1000, 100)
SIZES = st.tuples(st.integers(0, 30), st.integers(0, 2))
#: To seal the open batch, to say whether anything else is under way, or to send a message.
STEPS = st.lists(
    st.one_of(st.none(), st.booleans(), st.tuples(st.sampled_from([b"a", b"b", b"c"]), SIZES)), max_size=40
)


async def test_one_batch_by_key(gatherer: Any) -> None:
    gather = gatherer(asyncio.get_running_loop(), *MANY)
    sent = [gather.send(key, member, 5) for key, member in [(b"a", b"1"), (b"b", b"22"), (b"a", b"3")]]
    (batch,) = gather.opened
    assert (batch.messages, batch.size) == (3, 4)
    assert [(one.key, one.members, one.capacities) for one in batch.keys] == [
        (b"a", [b"1", b"3"], [5, 5]),
        (b"b", [b"22"], [5]),
    ]
    assert all(one.batch is batch for one in batch.keys)
    assert batch.waiters() == [sent[0], sent[2], sent[1]]
    assert batch.arguments(60) == [2, b"a", b"b", 60, 1, 5, 2, b"1", b"3", 1, 5, 1, b"22"]


async def test_runs_of_equal_capacity(gatherer: Any) -> None:
    gather = gatherer(asyncio.get_running_loop(), *MANY)
    capacities = [7, 7, 1000, 1000, 7, 0]
    for number, capacity in enumerate(capacities):
        gather.send(b"a", b"%d" % number, int(str(capacity)))
    members = [b"%d" % number for number in range(6)]
    assert gather.opened[0].arguments(1) == [
        *(1, b"a", 1, 4),
        *(7, 2, *members[:2]),
        *(1000, 2, *members[2:4]),
        *(7, 1, members[4]),
        *(0, 1, members[5]),
    ]


async def test_all_accepted_but_who_has_gone(gatherer: Any) -> None:
    gather = gatherer(asyncio.get_running_loop(), *MANY)
    sent = [gather.send(b"a", b"x", 1) for _ in range(4)]
    sent[1].cancel()
    sent[2].set_result(False)
    gather.opened[0].accept()
    assert [one.cancelled() or one.take() for one in sent] == [True, True, False, True]
    assert sent[1].cancelled()
    await end()


async def test_what_is_sealed_goes_without_the_collector(gatherer: Any) -> None:
    """A message must not stay in memory until the garbage collector comes round."""

    class Watched(float):
        """A capacity, as something that can be watched."""

    gather = gatherer(asyncio.get_running_loop(), *MANY)
    capacity = Watched(1)
    watched = weakref.ref(capacity)
    gather.send(b"a", b"x", capacity)
    gather.seal(gather.opened[0])
    gc.disable()
    try:
        gather.opened.clear()
        del capacity
        assert watched() is None
    finally:
        gc.enable()


async def test_a_key_moves_into_a_call_of_its_own(gatherer: Any, hot: Any) -> None:
    gather = gatherer(asyncio.get_running_loop(), *MANY)
    sent = [gather.send(b"a", b"x", 1), gather.send(b"b", b"y", 1), gather.send(b"b", b"z", 1)]
    alone = hot.Batch()
    alone.take(gather.opened[0].keys[1])
    assert alone.messages == 2
    assert alone.arguments(9) == [1, b"b", 9, 1, 1, 2, b"y", b"z"]
    assert alone.waiters() == sent[1:]


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [((1, 100, 100, 1000, 100), [2, 2, 2]), ((100, 3, 100, 1000, 100), [3, 3]), ((100, 100, 1, 1000, 100), [6])],
    ids=["one of a key", "messages", "one key"],
)
async def test_limits_of_one_key(gatherer: Any, limits: tuple[int, ...], sizes: list[int]) -> None:
    gather = gatherer(asyncio.get_running_loop(), *limits)
    for number in range(6):
        gather.send(b"a", b"%d" % number, 1)
    # A key that has its fill begins anew: in the same call, unless that is full as well.
    members = [one.members for batch in gather.opened for one in batch.keys]
    assert [member for some in members for member in some] == [b"%d" % number for number in range(6)]
    if limits[0] == 1:
        assert [len(some) for some in members] == [1] * 6
    else:
        assert [batch.messages for batch in gather.opened] == sizes


@given(data=st.data())
def test_the_twins_gather_alike(twins: Any, data: Any) -> None:
    """Any limits, any order of keys; what is sealed at any moment."""
    limits = data.draw(st.tuples(*[st.integers(1, 6)] * 3, st.integers(1, 60), st.integers(1, 8)))
    steps = data.draw(STEPS)
    loop = asyncio.new_event_loop()
    try:
        told = []
        for twin in twins:
            gather = _gatherer_of(twin)(loop, *limits)
            for step in steps:
                if step is None:
                    if gather.opened:
                        gather.seal(gather.opened[-1])
                elif isinstance(step, bool):
                    gather.nothing_else = step
                else:
                    key, (size, capacity) = step
                    assert not gather.send(key, b"x" * size, capacity).done()
            told.append(([(one.messages, one.size, one.arguments(60)) for one in gather.opened], gather.early))
        assert told[0] == told[1]
        batches = told[0][0]
        assert sum(count for count, _, _ in batches) == sum(isinstance(step, tuple) for step in steps)
        assert all(count <= limits[1] for count, _, _ in batches)
    finally:
        loop.close()


async def test_early_once_then_at_twice_as_many(gatherer: Any) -> None:
    gather = gatherer(asyncio.get_running_loop(), 100, 100, 100, 1000, 4)
    for _ in range(30):
        gather.send(b"a", b"x", 1)
    assert gather.early == [4, 8, 16]
    # A small batch means that the rush is over.
    gather.seal(gather.opened[-1])
    for _ in range(4):
        gather.send(b"a", b"x", 1)
    assert gather.early == [4, 8, 16, 4]


async def test_a_message_that_comes_alone_again_is_written_at_once(gatherer: Any) -> None:
    gather = gatherer(asyncio.get_running_loop(), *MANY)
    gather.nothing_else = True
    gather.send(b"a", b"x", 1)
    # The first may have company.
    assert gather.early == []
    gather.seal(gather.opened[-1])
    gather.send(b"a", b"x", 1)
    gather.send(b"b", b"x", 1)
    assert gather.early == [1, 1]
    gather.nothing_else = False
    gather.send(b"a", b"x", 1)
    assert gather.early == [1, 1]
    gather.seal(gather.opened[-1])
    # The last one was not the only thing under way, and the next one has company.
    gather.nothing_else = True
    gather.send(b"a", b"x", 1)
    gather.send(b"a", b"x", 1)
    gather.seal(gather.opened[-1])
    gather.send(b"a", b"x", 1)
    assert gather.early == [1, 1]


async def test_a_full_call_opens_the_next(gatherer: Any) -> None:
    gather = gatherer(asyncio.get_running_loop(), 100, 100, 2, 10, 100)
    for key in (b"a", b"b", b"c", b"a"):
        gather.send(key, b"1234", 1)
    # Two keys at most, and ten bytes; one that is larger goes all the same.
    gather.send(b"d", b"x" * 50, 1)
    gather.send(b"d", b"y", 1)
    assert [[(one.key, len(one.members)) for one in batch.keys] for batch in gather.opened] == [
        [(b"a", 1), (b"b", 1)],
        [(b"c", 1), (b"a", 1)],
        [(b"d", 1)],
        [(b"d", 1)],
    ]


async def test_wrong_arguments_are_no_crash(twins: Any) -> None:
    compiled, _ = twins
    waker = compiled.Waker(asyncio.get_running_loop())
    for arguments in ((None, *MANY), (waker, "x", 1, 1, 1, 1), (waker,)):
        with pytest.raises(TypeError):
            compiled.Gatherer(*arguments)
    gather = compiled.Gatherer(waker, *MANY)
    for wrong in ((b"a", "text", 1), (b"a", None, 1), ([], b"x", 1)):
        with pytest.raises(TypeError):
            gather.send(*wrong)
    with pytest.raises(AttributeError):
        gather.send(b"a", b"x", 1)
    with pytest.raises(TypeError):
        gather.seal(None)
    with pytest.raises(TypeError):
        compiled.KeyBatch(b"a", None)
    with pytest.raises(TypeError):
        compiled.Batch().take(None)


# Messages that are published.


@pytest.fixture
def publisher(hot: Any) -> Callable[..., Any]:
    """A gatherer of messages that keeps the batches it opened; `written`: whether the socket takes what it is given."""

    class Batch(hot.PublishCommands):  # type: ignore[misc, name-defined]
        def _take_other(self, reply: Any) -> bool:
            raise LookupError(reply)

    class Kept(hot.PublishGatherer):  # type: ignore[misc, name-defined]
        def __init__(self, messages: int = 100, size: int = 1000, early: int = 100, written: bool = True) -> None:
            super().__init__(hot.Waker(asyncio.get_running_loop()), b"PUBLISH", messages, size, early)
            self.opened: list[Any] = []
            self.early: list[int] = []
            self.written = written
            self.nothing_else = False

        def _open(self) -> Any:
            self.opened.append(Batch())
            self.is_idle = self.nothing_else
            return self.opened[-1]

        def _write_early(self) -> None:
            self.early.append(len(self.opened[-1].messages))
            if self.written:
                self.seal(self.opened[-1])

    return Kept


async def test_published_messages_leave_together(publisher: Any) -> None:
    gather = publisher()
    sent = [gather.publish(b"a", b"1"), gather.publish(b"b", b"22", "queue"), gather.publish(b"a", b"3")]
    gather.end_batch()
    gather.publish(b"c", b"")
    first, second = gather.opened
    assert first.messages == [(b"PUBLISH", b"a", b"1"), (b"PUBLISH", b"b", b"22"), (b"PUBLISH", b"a", b"3")]
    assert (first.waiters, first.queues, first.size, first.answered) == (sent, ["queue"], 4, 0)
    assert (second.messages, second.queues) == ([(b"PUBLISH", b"c", b"")], [])


async def test_each_reply_ends_the_next_wait(publisher: Any) -> None:
    gather = publisher()
    sent = [gather.publish(b"a", b"x") for _ in range(4)]
    (batch,) = gather.opened
    sent[1].cancel()
    assert [batch.reply(number) for number in range(3)] == [False] * 3
    assert [one.done() for one in sent] == [True, True, True, False]
    assert (sent[0].take(), sent[1].cancelled(), batch.answered) == (None, True, 3)
    # True is no reply of Redis' to this, but for Python a number.
    for odd in (True, None, b"1", [1]):
        with pytest.raises(LookupError):
            batch.reply(odd)
    batch.reply(0)
    with pytest.raises(IndexError):
        batch.reply(0)
    assert batch.answered == 4
    await end()


async def test_the_queue_of_each_message_is_told_of_its_answer(publisher: Any) -> None:
    gather = publisher()
    told: list[int] = []

    class Queue:
        def __init__(self, number: int) -> None:
            self.answered = lambda: told.append(number)

    sent = [gather.publish(b"a", b"x", Queue(number)) for number in range(3)]
    (batch,) = gather.opened
    sent[1].cancel()
    for number in range(3):
        batch.reply(1)
        assert told == [*range(number + 1)]
    await end()


async def test_published_messages_are_written_early(publisher: Any) -> None:
    gather = publisher(messages=20, size=1000, early=3)
    for number in range(40):
        gather.publish(b"a", b"%d" % number)
    # Twice as many each time, up to the most that a batch takes.
    assert gather.early == [3, 6, 12]
    gather.publish(b"a", bytes(2000))
    # That was for its size: it says nothing about the number.
    assert gather.early == [3, 6, 12, 20]
    assert [len(batch.messages) for batch in gather.opened] == [3, 6, 12, 20]


async def test_a_published_message_that_comes_alone_again_is_written_at_once(publisher: Any) -> None:
    gather = publisher()
    gather.nothing_else = True
    gather.publish(b"a", b"x")
    assert gather.early == []
    gather.seal(gather.opened[-1])
    gather.publish(b"a", b"x")
    gather.publish(b"a", b"x")
    assert gather.early == [1, 1]
    gather.nothing_else = False
    gather.publish(b"a", b"x")
    gather.publish(b"a", b"x")
    gather.seal(gather.opened[-1])
    gather.nothing_else = True
    gather.publish(b"a", b"x")
    assert gather.early == [1, 1]


async def test_a_lone_message_that_the_socket_does_not_take_gets_company(publisher: Any) -> None:
    gather = publisher(written=False)
    gather.nothing_else = True
    gather.publish(b"a", b"x")
    gather.seal(gather.opened[-1])
    for _ in range(3):
        gather.publish(b"a", b"x")
    assert gather.early == [1]
    assert [len(batch.messages) for batch in gather.opened] == [1, 3]


async def test_a_socket_that_takes_nothing_ends_full_batches_alone(publisher: Any) -> None:
    gather = publisher(messages=4, size=100, early=2, written=False)
    for number in range(9):
        gather.publish(b"a", b"%d" % number)
    gather.publish(b"a", bytes(200))
    gather.publish(b"a", b"last")
    assert [len(batch.messages) for batch in gather.opened] == [4, 4, 2, 1]


async def test_a_small_batch_that_is_sealed_begins_anew(publisher: Any) -> None:
    gather = publisher(messages=50, early=3)
    for number in range(5):
        gather.publish(b"a", b"%d" % number)
    gather.seal(gather.opened[0])
    assert gather.early == [3]
    gather.seal(gather.opened[1])
    for number in range(4):
        gather.publish(b"a", b"%d" % number)
    assert gather.early == [3, 3]
