"""
The option ``history``: which groups have one, and how much of it is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import options
from ..hot import CapacityTable

#: The maximum size of a history in bytes if the option does not set it.
MAX_BYTES = 10_000_000


class Retention(NamedTuple):
    """The minimum number of messages kept of a group, for how many idle seconds, and the maximum size in bytes."""

    size: int
    ttl: int
    max_bytes: int


class RetentionRules:
    """
    How much is kept, by pattern of group names, in order. The first match counts; a group without one has no history.

    Raises ``TypeError`` or ``ValueError`` naming the wrong part of the option ``history``.
    """

    def __init__(self, rules: Mapping[str | re.Pattern[str], Mapping[str, Any]]) -> None:
        self._retentions = [_retention(pattern, rule) for pattern, rule in rules.items()]
        #: The retention for each pattern, as text.
        self.by_pattern = dict(zip(map(_text, rules), self._retentions, strict=True))
        # Globs and patterns mean what they mean in ``channel_capacity``; a capacity here is an index into the list.
        self._table = CapacityTable({pattern: place for place, pattern in enumerate(rules)}, len(rules))

    def lookup(self, group: str) -> Retention | None:
        """Return the retention of a group, None if nothing is kept."""
        place = self._table.lookup(group)
        return self._retentions[place] if place < len(self._retentions) else None


def _retention(pattern: object, rule: object) -> Retention:
    if not isinstance(pattern, (str, re.Pattern)):
        raise TypeError(f"Option 'history': keys must be globs or compiled patterns, not {type(pattern).__name__}.")
    text: object = _text(pattern)
    if not isinstance(text, str):
        raise TypeError(f"Option 'history': group names are text, but {text!r} is a pattern of bytes.")
    where = f"history[{text!r}]"
    if not isinstance(rule, Mapping):
        raise TypeError(f"Option '{where}' must be a dict with 'size' and 'ttl', not {type(rule).__name__}.")
    for name in ("size", "ttl"):
        if name not in rule:
            raise ValueError(f"Option '{where}' lacks '{name}'.")
    unknown = [name for name in rule if name not in ("size", "ttl", "max_bytes")]
    if unknown:
        raise ValueError(f"Option '{where}' has an unknown key {unknown[0]!r}; it takes 'size', 'ttl' and 'max_bytes'.")
    size = options.count(f"{where}['size']", rule["size"])
    if not 1 <= size < 2**63:
        raise ValueError(f"Option '{where}['size']' must be at least one message and less than 2**63; it is {size}.")
    ttl = options.seconds(f"{where}['ttl']", rule["ttl"])
    max_bytes = options.size(f"{where}['max_bytes']", rule.get("max_bytes"))
    return Retention(size, ttl, MAX_BYTES if max_bytes is None else max_bytes)


def _text(pattern: str | re.Pattern[str]) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern
