"""The hot path, once compiled and once pure: what the tests in this directory take as `hot`, or both as `twins`."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from channels_redis_fast.hot import batches, capacity, codec, envelope, histograms, mailboxes, names, pipeline, waiters

MODULES = ("names", "capacity", "envelope", "codec", "pipeline", "histograms", "waiters", "mailboxes", "batches")


def load_compiled() -> SimpleNamespace | None:
    """Everything public of the compiled modules, None when they are not built."""
    try:
        modules = [import_module(f"channels_redis_fast._ext.{name}") for name in MODULES]
    except ImportError:
        return None
    return SimpleNamespace(**{name: value for module in modules for name, value in vars(module).items()})


COMPILED = load_compiled()
TWINS = (names, capacity, envelope, codec, pipeline, histograms, waiters, mailboxes, batches)
PURE = SimpleNamespace(**{name: value for twin in TWINS for name, value in vars(twin).items()})
NOT_BUILT = "the compiled modules (channels_redis_fast._ext) are not built: pip install -e ."


@pytest.fixture(scope="session", params=["compiled", "pure"])
def hot(request: pytest.FixtureRequest) -> SimpleNamespace:
    """One of the twins, to be held against an oracle."""
    if request.param == "pure":
        return PURE
    if COMPILED is None:
        pytest.skip(NOT_BUILT)
    return COMPILED


@pytest.fixture(scope="session")
def twins() -> tuple[Any, SimpleNamespace]:
    """Both of them, to be held against each other."""
    if COMPILED is None:
        pytest.skip(NOT_BUILT)
    return COMPILED, PURE


def outcome(function: Any, *args: Any) -> tuple[Any, ...]:
    """What a call comes to: its result as text, which tells types and NaNs, or its exception's type and text."""
    try:
        result = function(*args)
    except Exception as error:
        return type(error), str(error)
    return (repr(result),)


@pytest.fixture(scope="session", name="outcome")
def outcome_fixture() -> Any:
    """`outcome`, for tests that live in another module."""
    return outcome
