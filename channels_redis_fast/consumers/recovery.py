"""
Makes sure that a consumer's client misses nothing across a reconnect, whatever its protocol.

A client sends the positions up to which it has seen its groups (``since``). A group is joined and read from there in
one step (``group_resume``), and missed messages go through the consumer's own handlers.

Rules kept here:

- Missed messages come in order, after the client was accepted and before newer messages of that group.
- Handlers run one at a time, in the consumer's own task, through its ``dispatch``. A handler that joins a group ends
  before the missed messages are handled.
- Nothing comes twice: a message that the history had at the join is dropped if the channel delivers it too.
- A client that may have missed something is told so before it gets anything newer of that group.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from channels.consumer import AsyncConsumer, SyncConsumer

from ..history import FIELD, History
from ..history.positions import Position, group_in, same_epoch
from .needed import layer_with
from .since import Since
from .sources import STREAK, Message

#: How many messages of a group are held for a client that is not accepted yet, in addition to those that it missed.
MAX_HELD = 1000

#: The position of the message whose handler this code runs for: in the consumer's task, or in one that it has started.
_handled: ContextVar[str | None] = ContextVar("channels_redis_fast.consumers.handled", default=None)


class JoinedGroup:
    """A group that a consumer has joined, and what its client has received of it."""

    __slots__ = ("_has_moved", "_of_other_epochs", "_room", "_tip", "complete", "held", "name", "position")

    def __init__(self, name: str, since: str, history: History, complete: bool) -> None:
        self.name = name
        #: The newest position that the client was given, or already had.
        self.position = since
        #: Until this is True, the position is the client's claim, which may be ahead of what exists.
        self._has_moved = False
        self.complete = complete
        #: Messages to handle before anything newer; None once that is done.
        self.held: deque[Message] | None = deque(history.messages)
        self._room = len(history.messages) + MAX_HELD
        self._tip = history.position
        # Positions from an earlier run of the server cannot be compared with the tip.
        self._of_other_epochs = {
            message[FIELD] for message in history.messages if not same_epoch(message[FIELD], self._tip)
        }

    def is_repeat(self, position: str) -> bool:
        """Return whether a message that the channel delivers was already in the history at the join."""
        if position <= self._tip and same_epoch(position, self._tip):
            return True
        return bool(self._of_other_epochs) and position in self._of_other_epochs

    def hold(self, message: Message) -> None:
        """Hold a message until the client is accepted."""
        assert self.held is not None
        if len(self.held) < self._room:
            self.held.append(message)
        else:
            self.complete = False

    def advance(self, position: str) -> None:
        """Called with the position of a message that the client is given. On a ring, one may overtake another."""
        if position > self.position or not self._has_moved or not same_epoch(position, self.position):
            self.position = position
            self._has_moved = True

    def caught_up(self) -> None:
        """Called when everything that was held has been handled."""
        self.held = None
        if not self._has_moved or self.is_repeat(self.position):
            self.position = self._tip
            self._has_moved = True


class Recovery:
    """The state of one consumer: its groups by the digest in their positions, and what is being handled."""

    __slots__ = ("behind", "groups", "is_accepted", "is_closed", "position", "replayed", "since", "task")

    def __init__(self, since: Since) -> None:
        self.since = since
        #: The consumer's own task, in which its handlers run.
        self.task = asyncio.current_task()
        self.groups: dict[str, JoinedGroup] = {}
        #: The groups with held messages, in the order in which they were joined.
        self.behind: deque[JoinedGroup] = deque()
        self.is_accepted = False
        self.is_closed = False
        #: The position of the message that is being handled. Code that runs for it has this very object in its context.
        #: A task that a handler left behind has the one of an earlier message, and another consumer's task has its own.
        self.position: str | None = None
        #: The position of the message that is being handled, if it was held.
        self.replayed: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether something can be sent to the client."""
        return self.is_accepted and not self.is_closed


class RecoveringConsumer(AsyncConsumer):  # type: ignore[misc]
    """The common base of ``Resumable`` and ``ResumableEvents``."""

    _recovery: Recovery | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, SyncConsumer):
            raise TypeError(
                f"{cls.__qualname__} is a SyncConsumer, which cannot resume: derive it from an async consumer."
            )

    async def join(self, group: str) -> None:
        """
        Join a group; call this from a handler of the consumer. Missed messages are handled when the handler returns.

        The consumer leaves the group when its client disconnects. Raises ``RuntimeError`` if the layer or the group
        has no history, ``ValueError`` if ``resume_from`` does not return a position of the group, and redis-py's
        errors.
        """
        recovery = self._recovery
        if recovery is None or asyncio.current_task() is not recovery.task:
            raise RuntimeError(
                "join() has to be called from a handler of the consumer: missed messages are handled when it returns."
            )
        layer = self._layer()
        digest = layer._stream(group).digest
        if digest in recovery.groups:
            await layer.group_add(group, self.channel_name)
            return
        since, understood = recovery.since.take(group, digest)
        start = await self.resume_from(group, since)
        if start is None:
            start = (await layer.group_history(group, limit=1)).position
        parsed = Position.parse(start)
        if parsed is None or parsed.group != digest:
            raise ValueError(
                f"{type(self).__qualname__}.resume_from returned {start!r}, not a position of group {group!r}."
            )
        history = await layer.group_resume(group, self.channel_name, start)
        joined = JoinedGroup(group, start, history, understood and history.complete)
        recovery.groups[digest] = joined
        recovery.behind.append(joined)

    async def leave(self, group: str) -> None:
        """Leave a group that was joined with ``join``. Raises redis-py's errors."""
        recovery = self._recovery
        if recovery is not None:
            for digest, joined in list(recovery.groups.items()):
                if joined.name == group:
                    del recovery.groups[digest]
                    joined.held = None
        await self.channel_layer.group_discard(group, self.channel_name)

    async def resume_from(self, group: str, since: str | None) -> str | None:
        """
        Called at each join: return the position after which the client gets what it missed. Can be overridden.

        ``since`` is the position that the client sent, None if it sent none. Return a later one to withhold what was
        sent before the client was a member, an earlier one to give it more, or None to give it only what is sent from
        now on.
        """
        return since

    async def missed(self, group: str) -> None:
        """Called when the client may have missed messages of a group that cannot be recovered. Can be overridden."""
        raise NotImplementedError

    async def resumed(self, group: str, position: str, complete: bool) -> None:
        """
        Called when a group was joined and its missed messages have been handled. Can be overridden.

        ``position`` is where the client is now. ``complete`` is False after ``missed``.
        """
        raise NotImplementedError

    async def dispatch(self, message: Message) -> None:
        """Call the handler of a message, unless it is a repeat; then the handlers of missed messages."""
        recovery = self._recovery
        if recovery is None:
            recovery = self._recovery = Recovery(self._since())
        position = message.get(FIELD)
        if isinstance(position, str):
            group = recovery.groups.get(group_in(position))
            if group is not None:
                if position != recovery.replayed:
                    if group.is_repeat(position):
                        return
                    if group.held is not None:
                        group.hold(message)
                        return
                group.advance(position)
            recovery.position = position
            _handled.set(position)
            try:
                await super().dispatch(message)
            finally:
                recovery.position = None
        else:
            if message.get("complete") is False and message.get("type") == self._type_of_reconnect():
                await self._missed_in_all(recovery)
            await super().dispatch(message)
        if recovery.behind and recovery.replayed is None:
            await self._catch_up(recovery)

    def _since(self) -> Since:
        """Return the positions that the client sent."""
        raise NotImplementedError

    def _position_of_frame(self) -> str | None:
        """Return the position that a frame sent now has to carry; None if it is sent for no message."""
        recovery = self._recovery
        if recovery is None or recovery.position is None or _handled.get() is not recovery.position:
            return None
        return recovery.position

    async def _catch_up(self, recovery: Recovery) -> None:
        """Handle the held messages, one group after another."""
        while recovery.behind and recovery.is_open:
            group = recovery.behind[0]
            if group.held is not None and not group.complete:
                await self.missed(group.name)
            handled = 0
            while group.held and recovery.is_open:
                message = group.held.popleft()
                recovery.replayed = message[FIELD]
                try:
                    await self.dispatch(message)
                finally:
                    recovery.replayed = None
                handled += 1
                if handled % STREAK == 0:
                    await asyncio.sleep(0)
            recovery.behind.popleft()
            if group.held is not None and recovery.is_open:
                group.caught_up()
                recovery.position = group.position
                _handled.set(group.position)
                try:
                    await self.resumed(group.name, group.position, group.complete)
                finally:
                    recovery.position = None

    async def _missed_in_all(self, recovery: Recovery) -> None:
        for group in list(recovery.groups.values()):
            if group.held is not None:
                # The client is told when its held messages are handled.
                group.complete = False
            elif recovery.is_open:
                await self.missed(group.name)

    async def _leave_all(self, but: Iterable[str] = ()) -> None:
        """Leave the groups joined with ``join``, and send nothing more."""
        recovery = self._recovery
        if recovery is None:
            return
        recovery.is_closed = True
        for group in recovery.groups.values():
            if group.name not in but:
                await self.channel_layer.group_discard(group.name, self.channel_name)

    def _accepted(self) -> None:
        if self._recovery is not None:
            self._recovery.is_accepted = True

    def _closed(self) -> None:
        if self._recovery is not None:
            self._recovery.is_closed = True

    def _type_of_reconnect(self) -> str | None:
        return getattr(self.channel_layer, "on_reconnect", None)

    def _layer(self) -> Any:
        """Return the channel layer. Raises an error that says why it has no histories."""
        return layer_with(self, "group_resume", "history", "no histories")
