"""
The sources of a workload's numbers: a profile file (JSON or TOML), flags of the same names, or a sample.

Flags override the file, and the file overrides the sample. Every error names the flag, or the file and the field.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..deployment import UsageError
from ..values import argument, count, one_of, rate, seconds, size
from .workload import ARRIVALS, SERVICES, SPREADS, TARGETS, Workload

MOST_CONSUMERS = 10_000
MOST_PROCESSES = 64


@dataclass(frozen=True)
class Field:
    """One field of a workload: ``read`` converts a flag's text or a file's value."""

    read: Callable[[object], Any]
    metavar: str
    help: str


#: By their names in ``Workload`` and in a profile; flags have dashes.
FIELDS: dict[str, Field] = {
    "to": Field(
        one_of(*TARGETS),
        "|".join(TARGETS),
        "where messages go: a general channel that workers share (default on core), specific channels, one for each "
        "consumer, or a group of these (default on Pub/Sub)",
    ),
    "rate": Field(rate, "N", "messages (or group messages) a second, without the bursts; 600/min works too"),
    "arrivals": Field(one_of(*ARRIVALS), "|".join(ARRIVALS), "whether they come at random (default) or evenly"),
    "burst": Field(count(0), "N", "messages in a burst, on top of --rate"),
    "burst_every": Field(seconds, "TIME", "time between the starts of two bursts (default: 10s)"),
    "burst_length": Field(seconds, "TIME", "time over which a burst is spread (default: 0, all at once)"),
    "size": Field(size, "BYTES", "size of a serialized message (default: 200)"),
    "consumers": Field(count(1, MOST_CONSUMERS), "N", "consumers in each process (default: 1)"),
    "processes": Field(count(1, MOST_PROCESSES), "N", "processes with consumers (default: 1)"),
    "service_time": Field(seconds, "TIME", "how long a consumer takes for one message, such as 20ms"),
    "service": Field(
        one_of(*SERVICES),
        "|".join(SERVICES),
        "what a consumer does in that time: wait, as for a database (default), or compute, which blocks its whole "
        "process",
    ),
    "service_spread": Field(
        one_of(*SPREADS),
        "|".join(SPREADS),
        "whether every message takes the same time (default), or a random one with that mean",
    ),
}


def add_flags(group: Any) -> None:
    """Add a flag for each number of a workload to an argparse group."""
    for name, field in FIELDS.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", dest=name, type=argument(field.read), metavar=field.metavar, help=field.help
        )


def flags_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the values given as flags."""
    return {name: getattr(arguments, name) for name in FIELDS if getattr(arguments, name) is not None}


def read_file(path: Path) -> dict[str, Any]:
    """
    Return the contents of a profile file: a JSON object, or TOML, with the fields of ``FIELDS``.

    Times are texts with a unit.

    Raises ``UsageError`` naming the file and the wrong field.
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
    """Return the workload with these fields. Raises ``UsageError`` for missing or contradictory values."""
    if "service_time" not in fields:
        raise UsageError("--service-time is missing: how long does a consumer take for one message? For example 20ms.")
    workload = Workload(**fields)
    if workload.burst_every <= 0:
        raise UsageError("--burst-every must be more than 0.")
    if workload.mean_rate <= 0:
        raise UsageError("How many messages are sent? Give --rate, or --burst and --burst-every.")
    if workload.burst and workload.burst_length > workload.burst_every:
        raise UsageError("--burst-length must not exceed --burst-every: bursts would overlap.")
    return workload


def as_fields(workload: Workload) -> dict[str, Any]:
    """Return a workload in the form of a profile file."""
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
