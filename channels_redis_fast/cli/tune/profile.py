"""
Where a workload's numbers come from: a profile file (JSON or TOML), flags of the same names, or a sample.

Flags win over the file, and the file over the sample. Every error names the flag, or the file and the field.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..deployment import UsageError
from .workload import ARRIVALS, SERVICES, SPREADS, TARGETS, Workload

_NUMBER = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*"
_UNITS_OF_TIME = {"": 1.0, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_UNITS_OF_SIZE = {"": 1, "b": 1, "k": 1000, "kb": 1000, "kib": 1024, "m": 10**6, "mb": 10**6, "mib": 1 << 20}

#: Bytes beyond which a message is not one any more that a channel layer is for.
MOST_BYTES = 64_000_000
MOST_CONSUMERS = 10_000
MOST_PROCESSES = 64


def seconds(value: object) -> float:
    """Return a time such as ``0.02``, ``"20ms"`` or ``"1.5 s"`` in seconds. Raises ``ValueError``."""
    return _measured(value, _UNITS_OF_TIME, "a time such as 20ms or 1.5s")


def size(value: object) -> int:
    """Return a size such as ``200`` or ``"2kB"`` in bytes. Raises ``ValueError``."""
    number = _measured(value, _UNITS_OF_SIZE, "a size such as 200 or 2kB")
    if not 1 <= number <= MOST_BYTES:
        raise ValueError(f"from 1 byte to {MOST_BYTES} bytes, not {value}")
    return round(number)


def share(value: object) -> float:
    """Return a part such as ``0.001`` or ``"0.1%"``. Raises ``ValueError``."""
    number = _measured(value, {"": 1.0, "%": 0.01}, "a share such as 0.1%")
    if number > 1:
        raise ValueError(f"a share is at most 100%, not {value}")
    return number


def number(value: object) -> float:
    """Return a number that is not negative. Raises ``ValueError``."""
    return _measured(value, {"": 1.0, "/s": 1.0}, "a number that is not negative")


def count(least: int, most: int | None = None) -> Callable[[object], int]:
    """Return what reads a whole number in these limits. It raises ``ValueError``."""

    def read(value: object) -> int:
        found = _measured(value, {"": 1.0}, "a whole number")
        if found != int(found):
            raise ValueError(f"a whole number, not {value}")
        if found < least or (most is not None and found > most):
            limits = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{limits}, not {value}")
        return int(found)

    return read


def one_of(*choices: str) -> Callable[[object], str]:
    """Return what takes one of these words. It raises ``ValueError``."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return read


@dataclass(frozen=True)
class Field:
    """One number of a workload: ``read`` makes it of a flag's text or a file's value."""

    read: Callable[[object], Any]
    metavar: str
    help: str


#: By their names in ``Workload`` and in a profile; as flags, with dashes.
FIELDS: dict[str, Field] = {
    "to": Field(
        one_of(*TARGETS),
        "|".join(TARGETS),
        "where messages go: a general channel whose workers take turns (default on core), specific channels, one for "
        "each consumer, or a group of these (default on Pub/Sub)",
    ),
    "rate": Field(number, "N", "messages (or group messages) a second, beside the bursts"),
    "arrivals": Field(one_of(*ARRIVALS), "|".join(ARRIVALS), "how they come: at random (default) or evenly"),
    "burst": Field(count(0), "N", "messages of a burst, in addition"),
    "burst_every": Field(seconds, "TIME", "time from burst to burst (default: 10s)"),
    "burst_length": Field(seconds, "TIME", "time over which a burst is spread (default: 0, all at once)"),
    "size": Field(size, "BYTES", "size of a message, packed (default: 200)"),
    "consumers": Field(count(1, MOST_CONSUMERS), "N", "consumers in each process (default: 1)"),
    "processes": Field(count(1, MOST_PROCESSES), "N", "processes with consumers (default: 1)"),
    "service_time": Field(seconds, "TIME", "how long a consumer takes for a message, such as 20ms"),
    "service": Field(
        one_of(*SERVICES),
        "|".join(SERVICES),
        "what a consumer does in that time: waits, as for a database (default), or computes, which holds up its whole "
        "process",
    ),
    "service_spread": Field(
        one_of(*SPREADS), "|".join(SPREADS), "the time is the same for each message (default), or spread at random"
    ),
}


def add_flags(group: Any) -> None:
    """Add a flag for each number of a workload to an argparse group."""
    for name, field in FIELDS.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", dest=name, type=argument(field.read), metavar=field.metavar, help=field.help
        )


def argument(read: Callable[[object], Any]) -> Callable[[str], Any]:
    """Return a reader as argparse wants it: with errors that it shows."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def flags_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was given as flags."""
    return {name: getattr(arguments, name) for name in FIELDS if getattr(arguments, name) is not None}


def read_file(path: Path) -> dict[str, Any]:
    """
    Return what a profile file says: a JSON object, or TOML, with the fields of ``FIELDS``.

    Raises ``UsageError`` naming the file, and the field that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The profile {path} cannot be read: {error}.") from error
    found = _parse(path, text)
    if not isinstance(found, Mapping):
        raise UsageError(f"The profile {path} must be an object with fields such as rate and service_time.")
    profile = {}
    for name, value in found.items():
        if name not in FIELDS:
            raise UsageError(f"The profile {path} has no field {name!r} to fill: there are {', '.join(FIELDS)}.")
        try:
            profile[name] = FIELDS[name].read(value)
        except ValueError as error:
            raise UsageError(f"The profile {path}: {name} must be {error}.") from error
    return profile


def workload_of(fields: Mapping[str, Any]) -> Workload:
    """Return the workload that the fields make. Raises ``UsageError`` for what is missing or does not fit together."""
    if "service_time" not in fields:
        raise UsageError("How long does a consumer take for a message? Say so with --service-time, such as 20ms.")
    workload = Workload(**fields)
    if workload.burst_every <= 0:
        raise UsageError("--burst-every must be longer than nothing.")
    if workload.mean_rate <= 0:
        raise UsageError("How many messages come? Say so with --rate, or --burst and --burst-every.")
    if workload.burst and workload.burst_length > workload.burst_every:
        raise UsageError("--burst-length must not be longer than --burst-every: bursts would overlap.")
    return workload


def as_fields(workload: Workload) -> dict[str, Any]:
    """Return a workload as a profile file has it."""
    return asdict(workload)


def _parse(path: Path, text: str) -> Any:
    if path.suffix == ".toml":
        try:
            import tomllib  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - from Python 3.11 on
        except ModuleNotFoundError:
            raise UsageError(f"The profile {path} is TOML, which needs Python 3.11: write it as JSON.") from None
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"The profile {path} is not TOML: {error}.") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"The profile {path} is not JSON: {error}.") from error


def _measured(value: object, units: Mapping[str, float], what: str) -> float:
    """Read a number, with or without one of the units behind it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return float(value)
    elif isinstance(value, str):
        found = re.fullmatch(_NUMBER + r"(\S*)\s*", value)
        if found is not None and found[2].lower() in units:
            return float(found[1]) * units[found[2].lower()]
    raise ValueError(f"{what}, not {value!r}")
