"""The reference twin of `_ext/capacity.pyx`: the capacity of a channel according to the option `channel_capacity`.

It knows names and patterns. It does not know how many messages are waiting.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping


class CapacityTable:
    """The `channel_capacity` option: which capacity applies to which channel name.

    `patterns` maps globs or compiled patterns to capacities in messages (or is an iterable of such pairs); their order
    is their precedence. Globs are translated with `fnmatch.translate` and are case-sensitive. `default` is the layer's
    own `capacity`.

    Raises TypeError for a pattern that is neither a str nor has a `match` method, and for a capacity that is not an
    int; ValueError for a negative capacity. The text begins with the name of the option.
    """

    __slots__ = ("_rules", "default")

    default: int

    def __init__(
        self, patterns: Mapping[str | re.Pattern[str], int] | Iterable[tuple[str | re.Pattern[str], int]], default: int
    ) -> None:
        self.default = default
        self._rules: list[tuple[Callable[[str], object], int]] = []
        for pattern, capacity in patterns.items() if isinstance(patterns, Mapping) else patterns:
            if isinstance(pattern, str):
                match = re.compile(fnmatch.translate(pattern)).match
            elif hasattr(pattern, "match"):
                match = pattern.match
            else:
                raise TypeError(f"channel_capacity: {pattern!r} is neither a glob nor a compiled pattern")
            if not isinstance(capacity, int) or isinstance(capacity, bool):
                raise TypeError(f"channel_capacity: the capacity of {pattern!r} must be an int, not {capacity!r}")
            if capacity < 0:
                raise ValueError(f"channel_capacity: the capacity of {pattern!r} must not be negative: {capacity!r}")
            self._rules.append((match, int(capacity)))

    def lookup(self, channel: str, /) -> int:
        """The capacity of a channel, in messages: that of the first matching pattern, otherwise the default."""
        for match, capacity in self._rules:
            if match(channel):
                return capacity
        return self.default
