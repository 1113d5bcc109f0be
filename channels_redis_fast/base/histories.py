"""
The methods of a layer that read and delete the histories of groups. ``channels_redis_fast.history`` does the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from ..history import Asked, Histories, History, Stream
from ..messages.codec import Codec
from ..serializers import BaseMessageSerializer
from ..sync.routing import routed
from .limits import LimitedLayer
from .overriding import weakly


class HistoryMethods(LimitedLayer):
    """The histories of a layer's groups."""

    #: None if no group has a history.
    _histories: Histories | None

    @routed
    async def group_history(self, group: str, since: str | None = None, limit: int | None = None) -> History:
        """
        Return messages that were sent to a group: those after the position ``since``, or all that are kept if it is
        None.

        ``limit``: the maximum number. With ``since``, the oldest are returned, so that you can continue from the
        history's position; without it, the newest. ``complete`` is True only if it is proven that none is missing; see
        ``History``.

        Raises ``RuntimeError`` for a group without a history, ``TypeError`` or ``ValueError`` for a wrong argument,
        ``redis.exceptions.ConnectionError`` naming the host.
        """
        histories = self._require_histories()
        way, key = self._group(group)
        stream = histories.get(group, key)
        history = await histories.ask(way, stream, Asked.of(stream.digest, since, limit))
        return history if since is None else self._counted(history)

    @routed
    async def group_forget(self, group: str) -> None:
        """
        Delete the history of a group. Messages sent to it later are recorded again.

        Raises ``RuntimeError`` for a group without a history, ``redis.exceptions.ConnectionError`` naming the host.
        """
        histories = self._require_histories()
        way, key = self._group(group)
        await histories.forget(way, histories.get(group, key))

    def _stream(self, group: str) -> Stream:
        """Return the history of a group. Raises ``RuntimeError`` for a group that has none."""
        return self._require_histories().get(group, self._group(group)[1])

    def _require_histories(self) -> Histories:
        if self._histories is None:
            raise RuntimeError("This layer has no option 'history', so no group has a history.")
        return self._histories

    def _make_histories(self, rules: Mapping[Any, Any]) -> Histories | None:
        if not rules:
            return None
        self._ask_identities()
        return Histories(rules, self.prefix, self._keeping_codec(), self._stats)

    def _keeping_codec(self) -> Codec:
        """Return the codec for data that are kept in Redis for longer than the expiry of messages."""
        serializer = self._serializer
        if isinstance(serializer, BaseMessageSerializer) and serializer.expiry is not None:
            # What is kept outlives messages under way, so its encryption must not expire with them.
            serializer = copy(serializer)
            serializer.expiry = None
        codec: Codec = self.choose_codec(
            serializer, weakly(self._replaced("serialize")), weakly(self._replaced("deserialize"))
        )
        return codec
