"""Both twins whole: every public name of the compiled modules, and of the pure ones.

They are found, not listed: a new module is in what is fuzzed, hammered and searched for leaks from its first day. It
knows the layout of the package only.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from channels_redis_fast import _ext, hot

# Levels that msgpack itself unpacks.
DEEPEST = 1024


def compiled_modules() -> dict[str, ModuleType]:
    """The compiled modules by name, none where they are not built. Raises ImportError for one that does not load."""
    return {
        found.name: import_module(f"{_ext.__name__}.{found.name}")
        for found in pkgutil.iter_modules(_ext.__path__)
        if not found.ispkg
    }


def pure_modules() -> dict[str, ModuleType]:
    """The pure twins by name."""
    return {
        found.name: import_module(f"channels_redis_fast.hot.{found.name}")
        for found in pkgutil.iter_modules(hot.__path__)
    }


def own(module: ModuleType) -> dict[str, Any]:
    """What a module itself defines and shows to others: its functions and classes."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    }


def namespace(modules: dict[str, ModuleType]) -> SimpleNamespace:
    """All names of these modules in one place."""
    return SimpleNamespace(**{name: value for module in modules.values() for name, value in own(module).items()})


def outcome(function: Any, *args: Any) -> tuple[Any, ...]:
    """What a call comes to: its result as text, which tells types and NaNs, or its exception's type and text."""
    try:
        result = function(*args)
    except Exception as error:
        return type(error), str(error)
    return (text_of(result),)


def text_of(value: Any) -> str:
    """The `repr` of a value as deep as msgpack's are, which Python by itself has not the patience for."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 3 * DEEPEST)
    try:
        return repr(value)
    finally:
        sys.setrecursionlimit(limit)
