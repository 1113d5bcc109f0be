"""What every layer has, even the one without a server: the capacities of channels, and counters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from channels.layers import BaseChannelLayer

from .. import options
from ..history import History
from ..hot import CapacityTable
from ..messages.mailbox import MailboxLimits
from ..stats import LayerStats
from .overriding import weakly


class LimitedLayer(BaseChannelLayer):  # type: ignore[misc]
    """The capacities of channels: set by the layer's options; an application may change or override them."""

    #: The layer's name in the names of connections and in metrics.
    layer_name = ""

    def get_capacity(self, channel: str) -> int:
        """Return how many messages may wait on a channel: the first match in ``channel_capacity``, or ``capacity``."""
        return self._capacities.lookup(channel)

    @property
    def capacity(self) -> int:
        """How many messages may wait on a channel that no entry of ``channel_capacity`` matches."""
        return self._capacities.default

    @capacity.setter
    def capacity(self, value: int) -> None:
        self._set_capacities(options.count("capacity", value), self.channel_capacity)

    @property
    def channel_capacity(self) -> list[tuple[re.Pattern[str], int]]:
        """The capacities by pattern, in the form that Channels' ``compile_capacities`` returns."""
        return self._channel_capacity  # type: ignore[no-any-return]

    @channel_capacity.setter
    def channel_capacity(self, value: Any) -> None:
        self._set_capacities(self.capacity, value)

    def occupancy(self) -> dict[str, int]:
        """Return how many channels of this process are present in each group."""
        raise NotImplementedError

    def stats(self) -> LayerStats:
        """
        Return this process' counters and measurements by name, and current numbers.

        ``connections_open`` counts sockets, ``commands_in_flight`` the commands that were written but not yet answered,
        without blocking waits. ``mailbox_messages`` counts the messages in mailboxes, ``mailbox_deepest`` those of the
        channel with the most; ``mailbox_bytes`` is roughly the memory that they take. ``present`` counts the channels
        of this process that are present in groups. ``lag``, ``batch_messages`` and ``loop_stalls`` are each a
        ``Summary``: ``count`` since the layer was made, and ``p50``, ``p99`` and ``max`` of the last minute, None if
        there was nothing; ``round_trips`` has one for each server. Times are in seconds.
        """
        states = list(self._loops.values())
        limits = self._mailbox_limits()
        messages, deepest = limits.depths()
        numbers = {
            **self._stats.as_dict(),
            "connections_open": sum(connection.is_open for state in states for connection in state.connections()),
            "commands_in_flight": sum(connection.in_flight for state in states for connection in state.commands),
            "mailbox_messages": messages,
            "mailbox_deepest": deepest,
            "mailbox_bytes": limits.held(),
            "present": sum(self.occupancy().values()),
        }
        return cast(LayerStats, numbers)

    def _set_capacities(self, default: int, patterns: Any) -> None:
        # A dict is compiled here, and also kept in Channels' form; a list in that form is used as it is.
        self._capacities = CapacityTable(patterns, default)
        self._capacity_of = self._replaced("get_capacity") or self._capacities.lookup
        self._capacities_changed()
        self._channel_capacity = self.compile_capacities(patterns) if isinstance(patterns, Mapping) else patterns

    def _current_capacity(self, channel: str) -> int:
        return self._capacity_of(channel)

    def _mailbox_capacity(self) -> Callable[[str], int]:
        """Return a function from a channel to the capacity of its mailbox. It must not keep the layer alive."""
        if self._replaced("get_capacity") is None:
            return self._capacities.lookup
        return weakly(self._current_capacity, instead=1)

    def _counted(self, history: History) -> History:
        """Count the messages of a history for a client that was away. Return the history."""
        self._stats.recovered += len(history.messages)
        self._stats.incomplete += not history.complete
        return history

    def _mailbox_limits(self) -> MailboxLimits:
        """Return the limits that the mailboxes of this layer share."""
        raise NotImplementedError

    def _capacities_changed(self) -> None:
        """Called after the capacities were set: when the layer is made, and whenever they change."""

    def _replaced(self, name: str) -> Any:
        """Return a method of this layer if something has replaced the one defined for it, otherwise None."""
        raise NotImplementedError
