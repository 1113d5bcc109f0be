"""Waiters beside asyncio's own futures: the same to the task that awaits them, and woken together."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import weakref
from typing import Any

import pytest

from tests.core.helpers import end, started, until, within


@pytest.fixture
def waker(hot: Any) -> Any:
    async def make() -> Any:
        return hot.Waker(asyncio.get_running_loop())

    return make


async def take(waiter: Any) -> Any:
    """Await a waiter, or a future, and return its result."""
    await waiter
    return waiter.result()


async def both(waker: Any) -> list[Any]:
    """A waiter, and the oracle."""
    return [(await waker()).waiter(), asyncio.get_running_loop().create_future()]


def state(waiter: Any) -> tuple[Any, ...]:
    answers: list[Any] = [waiter.done(), waiter.cancelled()]
    for question in (waiter.result, waiter.exception):
        try:
            answers.append(repr(question()))
        except (Exception, asyncio.CancelledError) as error:
            answers.append((type(error), str(error)))
    return tuple(answers)


# What a task sees.


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
async def test_a_result(waker: Any, first: bool) -> None:
    """Whether it comes before the wait or during it."""
    for result in ({"n": 1}, None, False, (1, 2), StopIteration(3), ValueError("a result")):
        waiter = (await waker()).waiter()
        if first:
            waiter.set_result(result)
        task = await started(take(waiter))
        if not first:
            assert not task.done()
            waiter.set_result(result)
        assert await within(task) is result
        assert waiter.has_result()
        assert waiter.take() is result


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
async def test_an_error(waker: Any, first: bool) -> None:
    waiter = (await waker()).waiter()
    error = ValueError("that")
    if first:
        waiter.set_exception(error)
    task = await started(take(waiter))
    if not first:
        waiter.set_exception(error)
    with pytest.raises(ValueError, match="that") as raised:
        await within(task)
    assert raised.value is error
    assert not waiter.has_result()


async def test_every_state_is_a_futures(waker: Any) -> None:
    for change in (
        lambda waiter: None,
        lambda waiter: waiter.set_result(1),
        lambda waiter: waiter.set_exception(ValueError("x")),
        lambda waiter: waiter.cancel(),
        lambda waiter: waiter.cancel("why"),
        lambda waiter: waiter.cancel(msg="why"),
    ):
        ours, theirs = await both(waker)
        change(ours)
        change(theirs)
        assert state(ours) == state(theirs)
        assert ours.get_loop() is theirs.get_loop()


@pytest.mark.parametrize("change", ["set_result", "set_exception"])
async def test_only_once(waker: Any, change: str) -> None:
    waiter = (await waker()).waiter()
    waiter.set_result(1)
    with pytest.raises(asyncio.InvalidStateError):
        getattr(waiter, change)(ValueError("2"))
    assert waiter.cancel() is False
    assert waiter.take() == 1


async def test_a_cancelled_task(waker: Any) -> None:
    for given in ((), ("why",)):
        waiter = (await waker()).waiter()
        task = await started(take(waiter))
        task.cancel(*given)
        await asyncio.wait([task])
        assert task.cancelled()
        assert waiter.cancelled()
        assert not waiter.has_result()


async def test_cancelled_between_result_and_wake(waker: Any) -> None:
    """The task hears of the cancellation; the result is still there for who comes next."""
    waiter = (await waker()).waiter()
    task = await started(take(waiter))
    waiter.set_result(1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert waiter.has_result()
    assert waiter.take() == 1


@pytest.mark.parametrize("kind", ["Task", "_PyTask"])
async def test_tasks_in_c_and_in_python(waker: Any, kind: str) -> None:
    """Each hears of a result, of an error as it is, and of a cancellation by its wait; and reads its own context."""
    make, ours = getattr(asyncio.tasks, kind), await waker()
    loop, variable = asyncio.get_running_loop(), contextvars.ContextVar("variable", default=0)

    async def taken(waiter: Any) -> Any:
        variable.set(variable.get() + 1)
        return await take(waiter), variable.get()

    waiters = [ours.waiter() for _ in range(4)]
    tasks = [make(taken(waiter), loop=loop) for waiter in waiters]
    await started(asyncio.sleep(0))
    error = ValueError("that")
    waiters[0].set_result("text")
    waiters[1].set_exception(error)
    waiters[2].cancel("why")
    tasks[3].cancel()
    await within(asyncio.wait(tasks))
    assert tasks[0].result() == ("text", 1)
    assert tasks[1].exception() is error
    assert [task.cancelled() for task in tasks] == [False, False, True, True]
    assert waiters[3].cancelled()
    assert variable.get() == 0


async def test_a_timeout(waker: Any) -> None:
    waiter = (await waker()).waiter()
    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        await asyncio.wait_for(take(waiter), 0.01)
    assert waiter.cancelled()


async def test_several_tasks(waker: Any) -> None:
    """Not what a waiter is for, but a future can do it; as there, one cancelled task ends the wait for all."""
    waiter = (await waker()).waiter()
    tasks = [await started(take(waiter)) for _ in range(4)]
    waiter.set_result(1)
    assert await within(asyncio.gather(*tasks)) == [1] * 4
    waiter = (await waker()).waiter()
    tasks = [await started(take(waiter)) for _ in range(3)]
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True] * 3


async def test_awaited_by_hand(waker: Any) -> None:
    """What is not a task must not step on."""
    for waiter in await both(waker):
        steps = waiter.__await__()
        assert next(steps) is waiter
        with pytest.raises(RuntimeError, match="await wasn't used with future"):
            next(steps)


async def test_another_loop_refuses_it(waker: Any) -> None:
    waiter = (await waker()).waiter()

    def elsewhere() -> None:
        asyncio.run(take(waiter))

    with pytest.raises(RuntimeError, match="attached to a different loop"):
        await within(asyncio.to_thread(elsewhere))


async def test_callbacks(waker: Any) -> None:
    """Outside tasks too: done already, or taken back."""
    ours = (await waker()).waiter()
    context = contextvars.copy_context()
    called: list[Any] = []
    ours.set_result(1)
    ours.add_done_callback(called.append, context=context)
    assert called == []
    await until(lambda: called == [ours])
    for other in await both(waker):
        called.clear()
        for _ in range(3):
            other.add_done_callback(called.append, context=context)
        other.add_done_callback(print, context=context)
        assert other.remove_done_callback(print) == 1
        assert other.remove_done_callback(print) == 0
        other.set_result(1)
        await until(lambda other=other: called == [other] * 3)  # type: ignore[misc]
        assert other.remove_done_callback(called.append) == 0
    for other in await both(waker):
        called.clear()
        for _ in range(3):
            other.add_done_callback(called.append, context=context)
        assert other.remove_done_callback(called.append) == 3
        other.set_result(1)
        last = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(last.set_result, None)
        await last
        assert called == []


async def test_contexts_are_the_tasks_own(waker: Any) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    maker = await waker()
    seen: dict[int, int] = {}

    async def wait(n: int, waiter: Any) -> None:
        variable.set(n)
        await waiter
        seen[n] = variable.get()

    waiters = [maker.waiter() for _ in range(5)]
    tasks = [await started(wait(n, waiter)) for n, waiter in enumerate(waiters)]
    for waiter in waiters:
        waiter.set_result(None)
    await within(asyncio.gather(*tasks))
    assert seen == {n: n for n in range(5)}


# Woken together.


async def test_one_callback_wakes_all_in_order(hot: Any) -> None:
    loop = asyncio.get_running_loop()
    soon: list[Any] = []

    class Counting:
        """A loop as far as a waker is concerned."""

        def call_soon(self, *args: Any) -> Any:
            soon.append(args)
            return loop.call_soon(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

    maker = hot.Waker(Counting())
    order: list[int] = []
    waiters = [maker.waiter() for _ in range(100)]
    for n, waiter in enumerate(waiters):
        waiter.add_done_callback(lambda _, n=n: order.append(n), context=contextvars.copy_context())
    for waiter in reversed(waiters):
        waiter.set_result(None)
    assert order == []
    await until(lambda: len(order) == 100)
    assert order == list(reversed(range(100)))
    assert len(soon) == 1


async def test_who_is_woken_may_end_other_waits(waker: Any) -> None:
    """Those are woken by the next callback, and nobody inside the call that ends the wait."""
    maker = await waker()
    waiters = [maker.waiter() for _ in range(50)]
    steps: list[str] = []

    async def relay(n: int) -> None:
        await waiters[n]
        if n + 1 < len(waiters):
            waiters[n + 1].set_result(None)
            steps.append(f"set {n + 1}")
        steps.append(f"end {n}")

    tasks = [await started(relay(n)) for n in range(len(waiters))]
    waiters[0].set_result(None)
    await within(asyncio.gather(*tasks))
    assert steps[:4] == ["set 1", "end 0", "set 2", "end 1"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_exception_keeps_nobody_asleep(hot: Any, kind: type[BaseException]) -> None:
    """Tasks let KeyboardInterrupt and SystemExit through, callbacks anything; the others are woken all the same."""
    loop = asyncio.new_event_loop()
    told: list[Any] = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    maker = hot.Waker(loop)
    woken: list[int] = []

    def wake(n: int) -> None:
        woken.append(n)
        if n in (1, 3):
            raise kind("stop")

    waiters = [maker.waiter() for _ in range(5)]
    for n, waiter in enumerate(waiters):
        waiter.add_done_callback(lambda _, n=n: wake(n), context=contextvars.copy_context())
    for waiter in waiters:
        waiter.set_result(None)
    try:
        for _ in range(20):
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except kind as error:
                told.append(error)
    finally:
        loop.close()
    assert woken == [0, 1, 2, 3, 4]
    assert [type(error) for error in told] == [kind, kind]


async def test_a_waiter_leaves_nothing(waker: Any) -> None:
    """Neither a result nor the task, once it is done, is kept alive."""

    class Message(dict[str, Any]):
        """A dict that can be watched."""

    maker = await waker()
    waiter = maker.waiter()
    message = Message()
    watched = weakref.ref(message)
    task = await started(take(waiter))
    waiter.set_result(message)
    await within(task)
    del waiter, message, task

    def is_gone() -> bool:
        gc.collect()
        return watched() is None

    # Newer interpreters let go of a task one step later.
    await until(is_gone)


async def test_many_tasks_cancelled_at_any_moment(waker: Any) -> None:
    """Each result is taken by its task, or still in its waiter."""
    maker = await waker()
    for n in range(40):
        waiters = [maker.waiter() for _ in range(20)]
        tasks = [await started(take(waiter)) for waiter in waiters]
        for k, waiter in enumerate(waiters):
            if k % 4 == n % 4:
                tasks[k].cancel()
            if k % 3 != n % 3 and not waiter.done():
                waiter.set_result(k)
            if k % 5 == n % 5:
                tasks[k].cancel()
        for k, task in enumerate(tasks):
            if not waiters[k].done():
                task.cancel()
        await asyncio.wait(tasks)
        for k, (task, waiter) in enumerate(zip(tasks, waiters, strict=True)):
            assert task.cancelled() or task.result() == waiter.take() == k
    await end()


# Many at once.


@pytest.fixture
def slice_size() -> int:
    """How many waiters one callback wakes."""
    return 5000


async def turns(condition: Any) -> None:
    """Let the loop go round until the condition holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to hold")


async def test_many_are_woken_in_slices(hot: Any, slice_size: int) -> None:
    """In order, and what else the loop has to do comes between two of them."""
    loop = asyncio.get_running_loop()
    maker = hot.Waker(loop)
    count = 4 * slice_size + 1
    woken: list[int] = []
    waiters = [maker.waiter() for _ in range(count)]
    context = contextvars.copy_context()
    for n, waiter in enumerate(waiters):
        waiter.add_done_callback(lambda _, n=n: woken.append(n), context=context)
    seen: list[int] = []

    def look() -> None:
        seen.append(len(woken))
        if len(woken) < count + 1:
            loop.call_soon(look)

    for waiter in waiters:
        waiter.set_result(None)
    look()
    # Done last, woken last.
    late = maker.waiter()
    late.add_done_callback(lambda _: woken.append(count), context=context)
    await turns(lambda: woken)
    assert len(woken) < count
    late.set_result(None)
    await turns(lambda: seen[-1] == count + 1)
    assert woken == list(range(count + 1))
    steps = sorted(set(seen))
    assert len(steps) >= 5
    assert max(after - before for before, after in itertools.pairwise(steps)) <= slice_size


async def test_a_cancelled_task_does_not_wait_for_its_slice(hot: Any, slice_size: int) -> None:
    """It ran before whatever was begun after the cancellation, and does: here, whoever takes its place."""
    maker = hot.Waker(asyncio.get_running_loop())
    waiters = [maker.waiter() for _ in range(3 * slice_size)]
    steps: list[Any] = []

    async def wait(n: int) -> None:
        try:
            await waiters[n]
        except asyncio.CancelledError:
            steps.append(n)
            raise

    async def successor() -> None:
        steps.append("successor")

    tasks = [asyncio.create_task(wait(n)) for n in range(len(waiters))]
    await asyncio.sleep(0)
    for waiter in waiters:
        waiter.set_result(None)
    await turns(tasks[0].done)
    assert not tasks[-1].done()
    last = len(waiters) - 1
    for n in (last, last - 1):
        tasks[n].cancel()
    heir = asyncio.create_task(successor())
    await within(heir)
    assert steps == [last, last - 1, "successor"]
    assert waiters[last].has_result()
    await within(asyncio.wait(tasks))
    assert [n for n, task in enumerate(tasks) if task.cancelled()] == [last - 1, last]


async def test_all_are_cancelled_between_slices(hot: Any, slice_size: int) -> None:
    """As when a process ends: each hears of it once, and none waits for ever."""
    maker = hot.Waker(asyncio.get_running_loop())
    waiters = [maker.waiter() for _ in range(3 * slice_size)]
    tasks = [asyncio.create_task(take(waiter)) for waiter in waiters]
    await asyncio.sleep(0)
    for n, waiter in enumerate(waiters):
        waiter.set_result(n)
    await turns(tasks[0].done)
    asked = [task.cancel() for task in tasks]
    await within(asyncio.wait(tasks))
    assert [task.cancelled() for task in tasks] == asked
    assert 0 < sum(asked) < len(tasks)
    assert all(waiter.take() == n for n, waiter in enumerate(waiters))


def test_a_loop_that_stops_between_slices(hot: Any, slice_size: int) -> None:
    """It goes on where it was when it runs again; one that is closed is no error."""
    loop = asyncio.new_event_loop()
    maker = hot.Waker(loop)
    woken: list[int] = []
    count = 3 * slice_size

    def wake(n: int) -> None:
        woken.append(n)
        if n == slice_size // 2:
            loop.stop()

    def wait() -> None:
        woken.clear()
        for n in range(count):
            waiter = maker.waiter()
            waiter.add_done_callback(lambda _, n=n: wake(n), context=contextvars.copy_context())
            waiter.set_result(None)
        loop.run_forever()
        assert len(woken) == slice_size

    try:
        wait()
        loop.run_until_complete(turns(lambda: len(woken) == count))
        assert woken == list(range(count))
        wait()
    finally:
        loop.close()
    assert len(woken) == slice_size


def test_an_exception_in_a_slice_keeps_nobody_asleep(hot: Any, slice_size: int) -> None:
    loop = asyncio.new_event_loop()
    told: list[Any] = []
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))
    maker = hot.Waker(loop)
    woken: list[int] = []
    count = 2 * slice_size + 2

    def wake(n: int) -> None:
        woken.append(n)
        if n % slice_size == 1:
            raise ValueError("stop")

    for n in range(count):
        waiter = maker.waiter()
        waiter.add_done_callback(lambda _, n=n: wake(n), context=contextvars.copy_context())
        waiter.set_result(None)
    try:
        loop.run_until_complete(turns(lambda: len(woken) == count))
    finally:
        loop.close()
    assert woken == list(range(count))
    assert len(told) == 3


# What nobody does.


def test_what_no_init_has_seen_is_of_no_use_and_no_harm(hot: Any) -> None:
    """The compiled classes once took the interpreter down with them."""

    def unmade() -> Any:
        return hot.Waiter.__new__(hot.Waiter)

    def callback(waiter: Any) -> Any:
        waiter.add_done_callback(print, context=contextvars.copy_context())
        return waiter

    for use in (
        hot.Waiter,
        lambda: hot.Waiter(None).get_loop(),
        lambda: unmade().get_loop(),
        lambda: callback(unmade()).set_result(1),
        lambda: (waiter := unmade(), waiter.set_result(1), callback(waiter)),
        lambda: hot.Waker.__new__(hot.Waker)._run(),
    ):
        with pytest.raises((AttributeError, TypeError)):
            use()
