"""
Values as people write them, in flags and in files: times, sizes, shares, rates, counts.

A bare number is accepted only where it can mean only one thing. Each reader raises ``ValueError`` with what it accepts
and what it got; ``argument`` makes it an argparse type.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

_NUMBER = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
_UNITS_OF_TIME = {
    "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0,
}  # fmt: skip
_UNITS_OF_SIZE = {"": 1, "b": 1, "k": 1000, "kb": 1000, "kib": 1024, "m": 10**6, "mb": 10**6, "mib": 1 << 20}
_UNITS_OF_RATE = {"": 1.0, "/s": 1.0, "/min": 1 / 60, "/m": 1 / 60, "/h": 1 / 3600}

#: The largest size in bytes of a message that a channel layer is meant for.
MOST_BYTES = 64_000_000


def seconds(value: object) -> float:
    """
    Return a time such as ``"20ms"`` or ``"1.5 s"`` in seconds. Only zero needs no unit. Raises ``ValueError``.
    """
    try:
        bare = _measured(value, {"": 1.0}, "")
    except ValueError:
        return _measured(value, _UNITS_OF_TIME, "a time such as 20ms or 1.5s")
    if bare:
        raise ValueError(f"a time with its unit (write {bare:g}ms or {bare:g}s), not {value!r}")
    return 0.0


def seconds_within(least: float, most: float) -> Callable[[object], float]:
    """
    Return a reader for a time within these limits, in seconds. It raises ``ValueError``.

    A bare number means seconds: for options whose name or metavar says so.
    """

    def read(value: object) -> float:
        found = _measured(value, {"": 1.0, **_UNITS_OF_TIME}, "a time such as 20ms or 1.5s")
        if not least <= found <= most:
            raise ValueError(f"from {least:g} s to {most:g} s, not {value}")
        return found

    return read


def size(value: object) -> int:
    """Return a size such as ``200`` or ``"2kB"`` in bytes. Raises ``ValueError``."""
    number = _measured(value, _UNITS_OF_SIZE, "a size such as 200 or 2kB")
    if not 1 <= number <= MOST_BYTES:
        raise ValueError(f"from 1 byte to {MOST_BYTES} bytes, not {value}")
    return round(number)


def share(value: object) -> float:
    """
    Return a share such as ``"0.1%"`` or ``0.001``, below 1. Raises ``ValueError``.

    A bare 1 may mean 1 % or all, so from 1 on the percent sign is required.
    """
    found = _measured(value, {"": 1.0, "%": 0.01}, "a share such as 0.1%")
    if found < 1:
        return found
    if str(value).rstrip().endswith("%"):
        raise ValueError(f"a share below 100%, not {value}")
    raise ValueError(f"a share such as 0.1% (write {found:g}%), not {value!r}")


def rate(value: object) -> float:
    """Return a rate such as ``40``, ``"40/s"`` or ``"600/min"`` per second. Raises ``ValueError``."""
    return _measured(value, _UNITS_OF_RATE, "a rate such as 40, 40/s or 600/min")


def count(least: int, most: int | None = None) -> Callable[[object], int]:
    """Return a reader for a whole number within these limits. It raises ``ValueError``."""

    def read(value: object) -> int:
        # A point in a text may be a thousands separator.
        if not isinstance(value, (int, float)) and re.fullmatch(r"\s*\d+\s*", str(value)) is None:
            raise ValueError(f"a whole number, not {value!r}")
        found = _measured(value, {"": 1.0}, "a whole number")
        if found != int(found):
            raise ValueError(f"a whole number, not {value}")
        if found < least or (most is not None and found > most):
            limits = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{limits}, not {value}")
        return int(found)

    return read


def one_of(*choices: str) -> Callable[[object], str]:
    """Return a reader that accepts one of these words. It raises ``ValueError``."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return read


def argument(read: Callable[[object], Any]) -> Callable[[str], Any]:
    """Return a reader as an argparse type: argparse shows its errors."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def _measured(value: object, units: Mapping[str, float], what: str) -> float:
    """Read a number followed by one of the units; ``""`` among them allows a number without a unit."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "" in units and math.isfinite(value) and value >= 0:
            return float(value)
    elif isinstance(value, str):
        found = re.fullmatch(_NUMBER + r"(\S*)\s*", value)
        if found is not None and found[2].lower() in units:
            return float(found[1]) * units[found[2].lower()]
    raise ValueError(f"{what}, not {value!r}")
