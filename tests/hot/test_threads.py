"""Threads that hammer each compiled module, switched as often as the interpreter can.

Every call gives what it gives alone; no two prefixes are the same; and messages that other threads change while they
are packed are packed all the same. FUZZ_SECONDS says how long each of these goes on.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from tests.fuzz.cases import CASES, Case
from tests.fuzz.twins import compiled_modules, own

THREADS = 4
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0.2"))
MODULES = {name: set(own(module)) for name, module in compiled_modules().items()}


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Another thread's turn comes after a microsecond, which is at every chance."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*works: Callable[[], None]) -> None:
    """Run these again and again, each in a thread of its own, until the time is over; raises what they raise."""
    end = time.monotonic() + SECONDS
    failures: list[BaseException] = []
    ready = threading.Barrier(len(works))

    def repeat(work: Callable[[], None]) -> None:
        try:
            ready.wait()
            while time.monotonic() < end and not failures:
                work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def answer(case: Case, hot: Any) -> tuple[Any, ...]:
    try:
        return (repr(case.call(hot)),)
    except (Exception, asyncio.CancelledError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("module", [name for name, contents in MODULES.items() if contents - {"Irregular"}])
def test_calls_in_threads_give_what_they_give_alone(twins: Any, module: str) -> None:
    hot, _ = twins
    cases = [case for case in CASES if not case.large and {name.split(".")[0] for name in case.about} & MODULES[module]]
    assert cases, f"no call of {module}"
    alone = {case.name: answer(case, hot) for case in cases}

    def some() -> None:
        case = random.choice(cases)
        assert answer(case, hot) == alone[case.name], case.name

    together(*[some] * THREADS)


def test_no_two_prefixes_are_the_same(twins: Any) -> None:
    hot, _ = twins
    taken: list[bytes] = []

    # Enough random bytes, and odd lengths of them, for the stock to run out in the middle again and again.
    def some() -> None:
        taken.extend([hot.next_prefix(12), hot.encode({}, None, 16)[:16], hot.next_prefix(9)])
        hot.next_prefix(500)

    together(*[some] * THREADS)
    assert len(set(taken)) == len(taken)


def test_messages_that_change_while_they_are_packed(twins: Any) -> None:
    hot, _ = twins
    shared: dict[str, Any] = {"a": [1], "b": {"c": "d"}, "e": "f" * 100}

    def change() -> None:
        kind = random.randrange(6)
        if kind == 0:
            shared["b"] = {str(number): [number] for number in range(random.randrange(100))}
        elif kind == 1:
            shared["a"] = ["x" * 50] * random.randrange(100)
        elif kind == 2:
            shared[f"k{random.randrange(30)}"] = {"n": [shared.get("b")]}
        elif kind == 3 and len(shared) > 3:
            shared.popitem()
        elif kind == 4:
            shared["a"] = shared.get("a", [])[1:]
        else:
            shared.setdefault("a", []).append({"g": "h\xe9"})

    def read() -> None:
        body = random.choice([hot.pack, lambda message: hot.encode(message, None, 0)])(shared)
        # Both are walked without a chance for others: what comes out is a message that was there.
        assert isinstance(msgpack.unpackb(body), dict)
        assert isinstance(hot.clone(shared), dict)

    together(change, change, read, read)
