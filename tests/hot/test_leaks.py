"""Nothing is left behind: no object, no reference, no buffer, after a result and after an error, of any function.

`tracemalloc` sees every object that is made, the counts of what was given see every reference that is kept, and the
size of the process sees what is taken from the C library itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import fnmatch
import gc
import os
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import pytest

from tests.fuzz import samples
from tests.fuzz.cases import CASES, Case
from tests.fuzz.twins import compiled_modules, own

ROUNDS = 3
CALLS = 50
LARGE_CALLS = 60
# A call that loses an object grows by more, whatever it loses; caches that fill up do not grow in each round.
SMALLEST_LOSS = 16 * CALLS
# One large call in three may lose nothing: below this, allocators explain it.
LARGE_LOSS = LARGE_CALLS * 100_000
# What nearly every call has to do with, beside what it was given.
SHARED = [None, True, False, (), "", b"", 0, 1, dict, list, tuple, str, int, bytes, TypeError, ValueError]


def functions(modules: dict[str, Any]) -> dict[str, set[str]]:
    """The functions and methods of each module, `Class` standing for its constructor."""
    found: dict[str, set[str]] = {}
    for module, contents in modules.items():
        names = found.setdefault(module, set())
        for name, value in own(contents).items():
            if isinstance(value, type) and issubclass(value, BaseException):
                continue
            names.add(name)
            if isinstance(value, type):
                names |= {
                    f"{name}.{method}"
                    for method, member in vars(value).items()
                    if not method.startswith("_") and callable(member)
                }
    return found


def test_every_compiled_function_is_called(twins: Any) -> None:
    """What is new must be called here, and what is called here must be there."""
    known = set().union(*functions(compiled_modules()).values())
    called = {name for case in CASES for name in case.about}
    assert known - called == set()
    assert {name for name in called if "__" not in name} - known == set()


def quietly(case: Case, hot: Any) -> None:
    """Make the call; an error is as good as a result."""
    with suppress(Exception, asyncio.CancelledError):
        case.call(hot)


@contextmanager
def traced() -> Iterator[None]:
    gc.collect()
    # What is there already is not looked through again each time, nor by the next test: it stays frozen, as what
    # pytest has collected does (tests/conftest.py).
    gc.freeze()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.fixture(autouse=True)
def stable_globs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same glob is the same expression each time, which `re` has ready.

    Otherwise fnmatch numbers the groups of each anew, `re` keeps them all, and that of Python 3.10 and 3.11 loses some.
    """
    monkeypatch.setattr(fnmatch, "translate", lru_cache(fnmatch.translate))


def parts(value: Any) -> Iterator[Any]:
    """A value and all that is in it."""
    yield value
    if type(value) is dict:
        for key, item in value.items():
            yield key
            yield from parts(item)
    elif type(value) in (list, tuple):
        for item in value:
            yield from parts(item)


def watched() -> list[Any]:
    """Everything whose references are counted: what the calls are given, and what they share with everybody."""
    given = [value for name, value in vars(samples).items() if name.isupper() and name != "DEEP"]
    return list({id(part): part for value in [SHARED, *given] for part in parts(value)}.values())


@pytest.mark.parametrize("case", [case for case in CASES if not case.large], ids=lambda case: case.name)
def test_no_object_and_no_reference_is_lost(twins: Any, case: Case) -> None:
    hot, _ = twins
    kept = watched()

    def references() -> list[int]:
        return [sys.getrefcount(value) for value in kept]

    with traced():
        for _ in range(CALLS):
            quietly(case, hot)
        sizes, counts = [], []
        for _ in range(ROUNDS):
            at_first = references()
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(CALLS):
                quietly(case, hot)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0] - before)
            counts.append([now - first for now, first in zip(references(), at_first, strict=True)])
    assert min(sizes) < SMALLEST_LOSS, f"{sizes} bytes more, each time {CALLS} calls were made"
    lost = [value for value, grown in zip(kept, zip(*counts, strict=True), strict=True) if min(grown) >= CALLS // 2]
    assert not lost


def resident() -> int:
    """The size of the process in memory, in bytes, when what was freed has gone back to the system."""
    with suppress(AttributeError):
        # Of glibc. What lies there free, from other tests, would be taken for what is lost.
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux' /proc")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer keeps what was freed")
@pytest.mark.parametrize("case", [case for case in CASES if case.large], ids=lambda case: case.name)
def test_no_buffer_is_lost(twins: Any, case: Case) -> None:
    """A buffer of the C library is no object; some dozens of them, of 300 kB each, are to be seen from outside."""
    hot, _ = twins
    for _ in range(20):
        quietly(case, hot)
    grown = []
    for _ in range(2):
        before = resident()
        for _ in range(LARGE_CALLS):
            quietly(case, hot)
        grown.append(resident() - before)
    assert min(grown) < LARGE_LOSS, f"{grown} bytes more, each time {LARGE_CALLS} calls were made"


def test_the_search_finds_what_is_lost() -> None:
    """The search is no good if it finds nothing where there is something."""
    lost: list[Any] = []
    # Far more than what threads of pytest may free meanwhile.
    losses = {"objects": lambda hot: lost.append([None] * 20), "references": lambda hot: lost.append(samples.BODY)}
    for name, call in losses.items():
        with pytest.raises(AssertionError):
            test_no_object_and_no_reference_is_lost((None, None), Case(name, (), call))
    with pytest.raises(AssertionError):
        test_no_buffer_is_lost((None, None), Case("buffers", (), lambda hot: lost.append(b"x" * 300_000), large=True))


def test_no_compiled_object_is_unpickled(twins: Any) -> None:
    """What Cython makes for that believes what it is given, and took the interpreter down with it."""
    classes = [value for module in compiled_modules().values() for value in own(module).values()]
    assert [found for found in classes if isinstance(found, type) and "__setstate__" in vars(found)] == []
