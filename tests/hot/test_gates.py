"""Gates: one task that waits for several things, woken by whichever is first."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from typing import Any

import pytest

from tests.core.helpers import end, started, within


async def made(hot: Any, waiters: int = 0) -> tuple[Any, list[Any]]:
    """A gate that watches so many waiters."""
    loop = asyncio.get_running_loop()
    gate, waker = hot.Gate(loop), hot.Waker(loop)
    watched = [waker.waiter() for _ in range(waiters)]
    for waiter in watched:
        gate.watch(waiter)
    return gate, watched


async def through(gate: Any) -> None:
    await gate


async def test_opens_for_any_of_the_waiters_it_watches(hot: Any) -> None:
    for which in range(3):
        gate, waiters = await made(hot, 3)
        task = await started(through(gate))
        assert not task.done()
        waiters[which].set_result("that")
        await within(task)
        assert waiters[which].take() == "that"


async def test_a_waiter_that_was_done_before_it_was_watched(hot: Any) -> None:
    gate, _ = await made(hot)
    waiter = hot.Waker(asyncio.get_running_loop()).waiter()
    waiter.set_result(1)
    gate.watch(waiter)
    await within(asyncio.ensure_future(through(gate)))


@pytest.mark.parametrize("how", ["result", "error", "cancelled"])
async def test_says_nothing_of_the_outcome(hot: Any, how: str) -> None:
    """The task looks by itself."""
    gate, (waiter,) = await made(hot, 1)
    task = await started(through(gate))
    if how == "result":
        waiter.set_result(1)
    elif how == "error":
        waiter.set_exception(ValueError("of the waiter"))
    else:
        waiter.cancel()
    await within(task)
    assert task.exception() is None


async def test_stays_open_for_a_task_that_does_something_else(hot: Any) -> None:
    gate, (waiter,) = await made(hot, 1)
    assert not gate.is_open
    waiter.set_result(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert gate.is_open
    await within(asyncio.ensure_future(through(gate)))
    assert not gate.is_open
    again = await started(through(gate))
    assert not again.done()
    asyncio.get_running_loop().call_soon(gate.open)
    await within(again)


async def test_two_waiters_in_one_tick_let_through_once(hot: Any) -> None:
    gate, waiters = await made(hot, 2)
    passes: list[int] = []

    async def count() -> None:
        while True:
            await gate
            passes.append(sum(waiter.done() for waiter in waiters))

    task = await started(count())
    for waiter in waiters:
        waiter.set_result(1)
    for _ in range(5):
        await asyncio.sleep(0)
    # The second opens it for a wait that has begun anew: the task looks, and finds nothing new.
    assert passes[0] == 2
    assert len(passes) <= 2
    await end(task)


async def test_a_cancellation_with_its_message(hot: Any) -> None:
    gate, (waiter,) = await made(hot, 1)
    task = await started(through(gate))
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as raised:
        await within(task)
    assert raised.value.args in (("enough",), ())  # 3.10 drops it on the way through a task.
    assert not waiter.done()


async def test_a_cancellation_wins_over_a_waiter_of_the_same_tick(hot: Any) -> None:
    for first in ("waiter", "cancellation"):
        gate, (waiter,) = await made(hot, 1)
        task = await started(through(gate))
        if first == "waiter":
            waiter.set_result(1)
            task.cancel()
        else:
            task.cancel()
            waiter.set_result(1)
        with pytest.raises(asyncio.CancelledError):
            await within(task)


async def test_can_be_awaited_after_a_cancellation(hot: Any) -> None:
    gate, (waiter,) = await made(hot, 1)
    seen: list[str] = []

    async def stubborn() -> None:
        try:
            await gate
        except asyncio.CancelledError:
            seen.append("cancelled")
        while not waiter.done():
            await gate
        seen.append("done")

    task = await started(stubborn())
    task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert seen == ["cancelled"]
    waiter.set_result(1)
    await within(task)
    assert seen == ["cancelled", "done"]


async def test_the_task_runs_in_its_own_context(hot: Any) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="of the loop")
    gate, (waiter,) = await made(hot, 1)

    async def wait() -> tuple[str, Any]:
        variable.set("of the task")
        await gate
        return variable.get(), asyncio.current_task()

    for way in ("waiter", "callback"):
        task = await started(wait())
        if way == "waiter":
            waiter.set_result(1)
        else:
            asyncio.get_running_loop().call_soon(gate.open)
        assert await within(task) == ("of the task", task)
        assert variable.get() == "of the loop"


async def test_an_exception_out_of_a_step_keeps_nobody_else_from_being_woken(hot: Any) -> None:
    """One that asyncio lets through, as KeyboardInterrupt is; here raised by the callback of a hand-made task."""
    loop = asyncio.get_running_loop()
    waker, reports = hot.Waker(loop), []
    loop.set_exception_handler(lambda _, context: reports.append(type(context["exception"])))
    bad, good = hot.Gate(loop), hot.Gate(loop)
    waiters = [waker.waiter(), waker.waiter()]
    bad.watch(waiters[0])
    good.watch(waiters[1])

    def fail(_: Any) -> None:
        raise RuntimeError("out of a step")

    bad.add_done_callback(fail, context=contextvars.copy_context())
    task = await started(through(good))
    for waiter in waiters:
        waiter.set_result(1)
    await within(task)
    assert reports == [RuntimeError]


async def test_watches_without_taking_a_waiter_from_its_task(hot: Any) -> None:
    gate, (waiter,) = await made(hot, 1)

    async def take() -> Any:
        await waiter
        return waiter.take()

    tasks = [await started(through(gate)), await started(take())]
    waiter.set_result(5)
    assert await within(asyncio.gather(*tasks)) == [None, 5]


async def test_is_freed(hot: Any) -> None:
    """Without the garbage collector, once the task has come through."""

    class Referent:
        pass

    gc.disable()
    try:
        referent = Referent()
        freed = weakref.ref(referent)
        gate, (waiter,) = await made(hot, 1)

        async def wait(_: Referent) -> None:
            await gate

        task = await started(wait(referent))
        del referent
        waiter.set_result(1)
        await within(task)
        del task, waiter, wait
        assert freed() is None
    finally:
        gc.enable()


def test_a_gate_watches_waiters_only(hot: Any) -> None:
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises((TypeError, AttributeError)):
            hot.Gate(loop).watch(None)
    finally:
        loop.close()
