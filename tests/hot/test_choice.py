"""Which of the twins `hot` picks, and that they have the same names and signatures."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import Any

import pytest

from channels_redis_fast import hot

PROBE = "from channels_redis_fast import hot; print(hot.COMPILED, hot.kind.__module__)"
# Names the first compiled module so that its import fails, as it does where nothing was built.
HIDE = "import sys; sys.modules['channels_redis_fast._ext.capacity'] = None; "


def probe(program: str, pure: str | None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "CHANNELS_REDIS_FAST_PURE"}
    if pure is not None:
        environment["CHANNELS_REDIS_FAST_PURE"] = pure
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("pure", ["1", "yes"])
def test_the_variable_asks_for_pure(pure: str) -> None:
    assert probe(PROBE, pure) == "False channels_redis_fast.hot.names"


@pytest.mark.parametrize("pure", [None, "", "0"])
def test_compiled_is_the_default(twins: Any, pure: str | None) -> None:
    assert probe(PROBE, pure) == "True channels_redis_fast._ext.names"


def test_without_compiled_modules_all_is_pure() -> None:
    assert probe(HIDE + PROBE, None) == "False channels_redis_fast.hot.names"


def parameters(function: Any) -> list[tuple[str, Any, bool]]:
    return [
        (parameter.name, parameter.kind, parameter.default is parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize("name", [name for name in hot.__all__ if not name.isupper()])
def test_signatures(twins: Any, name: str) -> None:
    compiled, pure = (getattr(twin, name) for twin in twins)
    if not isinstance(pure, type):
        assert parameters(compiled) == parameters(pure)
        return
    methods = [name for name, member in vars(pure).items() if inspect.isfunction(member) and not name.startswith("_")]
    assert methods or pure.__slots__
    for method in methods:
        # Compiled methods take `self` by position only.
        assert parameters(getattr(compiled, method))[1:] == parameters(getattr(pure, method))[1:]
    attributes = {*vars(pure), *pure.__slots__}
    assert {name for name in vars(compiled) if not name.startswith("_")} <= attributes


def test_the_twins_agree_on_which_prefixes_are_ordered(twins: Any) -> None:
    compiled, pure = twins
    assert compiled.ORDERED_FROM == pure.ORDERED_FROM == hot.ORDERED_FROM
