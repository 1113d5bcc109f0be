"""
``InMemoryChannelLayer``: the semantics of the core layer, within one process. A thin module: ``mailboxes`` keeps the
messages, ``copying`` copies them.

Only ``receive`` ever waits. Any other method is done when its coroutine has run once, in any thread or event loop.
Groups, histories and presence change under one lock. Messages to groups are delivered under it too, so that all
channels of a group get them in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from asyncio import get_running_loop
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from time import monotonic
from typing import Any, ClassVar

from channels import layers as channels_layers
from channels.exceptions import ChannelFull

from .. import options
from ..base import LimitedLayer, overrides, weakly
from ..history import History
from ..history.placement import without_position
from ..hot import Waker
from ..loops import LoopStates, notice_fork, on_fork
from ..messages.codec import CHANNEL_FIELD, Message, choose
from ..messages.errors import say_where
from ..messages.exclusion import NOBODY, checked, listed
from ..messages.mailbox import MailboxLimits
from ..names import names_of, unique_name
from ..presence.keys import User, user_field
from ..presence.rules import PresenceRules
from ..serializers import make_serializer
from ..stats import LayerStats, Stats
from ..sync import hub
from ..sync.calls import SyncLayer
from .copying import Copying, ObjectCopies, SerializedCopies
from .history import GroupHistories
from .loop import NOWHERE, MemoryLoop
from .mailboxes import ChannelMailboxes
from .presence import Event, Presence
from .reader import Reader
from .sync import InlineCalls
from .views import ChannelQueues

logger = logging.getLogger("channels_redis_fast")

#: The methods that ``layer.sync`` calls.
_SYNC = (
    *("send", "send_many", "group_add", "group_discard", "group_send", "group_send_many", "group_history"),
    *("group_resume", "group_forget", "presence_join", "presence_leave", "presence", "presence_count"),
)


class InMemoryChannelLayer(LimitedLayer, channels_layers.InMemoryChannelLayer):  # type: ignore[misc]
    """
    A channel layer in the memory of one process, with the semantics of ``channels_redis_fast.core``.

    ``expiry``: lifetime of a message in seconds. ``group_expiry``: lifetime of a group membership in seconds.
    ``capacity``: how many messages may wait on a channel; ``channel_capacity``: dict of globs or compiled ``re``
    patterns to capacities, first match wins. ``serialize``: bool, whether messages are copied as by a wire, with the
    serializer of ``serializer_format``; otherwise their dicts and lists are copied. ``max_message_size``, ``history``
    and ``presence`` are those of the core layer.

    All other options of the core layer are accepted without effect, so that a change of layer changes one word in
    settings.

    Raises ``TypeError`` or ``ValueError`` naming the wrong option.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]

    layer_name = "memory"

    @options.explains_unknown
    def __init__(
        self,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[str | re.Pattern[str], int] | None = None,
        *,
        serialize: bool = True,
        serializer_format: str = "msgpack",
        max_message_size: int | None = None,
        history: Mapping[str | re.Pattern[str], Mapping[str, Any]] | None = None,
        presence: Mapping[str, Any] | None = None,
        hosts: Any = None,
        prefix: Any = None,
        symmetric_encryption_keys: Any = None,
        random_prefix_length: Any = None,
        sync_hub: Any = None,
        sync_timeout: float | None = None,
        restore_groups: Any = None,
        lease: Any = None,
        on_drain: Any = None,
    ) -> None:
        self.expiry = options.duration("expiry", expiry)
        self.group_expiry = options.duration("group_expiry", group_expiry)
        self.sync_timeout = None if sync_timeout is None else options.duration("sync_timeout", sync_timeout)
        self.max_message_size = options.size("max_message_size", max_message_size)
        self._set_capacities(options.count("capacity", capacity), options.mapping("channel_capacity", channel_capacity))
        self._serializer = make_serializer(
            serializer_format, random_prefix_length=0, expiry=None, symmetric_encryption_keys=None
        )
        self._copying: Copying = ObjectCopies()
        if options.flag("serialize", serialize):
            own = (weakly(self._replaced("serialize")), weakly(self._replaced("deserialize")))
            self._copying = SerializedCopies(choose(self._serializer, *own), self.max_message_size)
        self._carry = self._copying.carry
        #: Copies the usual message; None if messages need a closer inspection.
        self._through = None if history or max_message_size is not None else self._copying.through
        self._kind, self._is_group, _ = names_of(type(self))
        self._stats = Stats()
        rules = options.mapping("history", history)
        #: The histories of groups; None where no group has one.
        self._histories = GroupHistories(rules, self._copying, self._stats) if rules else None
        present = PresenceRules.of(presence)
        self._presence = None if present is None else Presence(present, weakly(self._leave_later, instead=0))
        #: Called with each sent message: whether it went to a group, the name, and the message.
        self._watchers: list[Callable[[bool, str, Message], None]] = []
        self._begin()
        self._loops: LoopStates[MemoryLoop] = LoopStates(weakly(self._make_state))
        on_fork(self)

    def _begin(self) -> None:
        """Start empty, without messages and groups."""
        self.client_prefix = unique_name()
        #: By group: its channels, each with the time of its last ``group_add`` (seconds since the epoch), the oldest
        #: first.
        self.groups: dict[str, dict[str, float]] = {}
        # Reentrant: an allocation may start the garbage collector, which may run any code in the same thread.
        self._lock = threading.RLock()
        self._limits = MailboxLimits(self.expiry, self._mailbox_capacity(), self._stats, self._copying.copy)
        self._mailboxes = ChannelMailboxes(self._limits)

    # Channels.

    async def send(self, channel: str, message: Message) -> None:
        """
        Send a message to a general or a specific channel.

        Raises ``ChannelFull`` if the channel is at capacity; ``TypeError`` with Channels' text for an invalid name;
        ``AssertionError`` for a message that is not a dict or contains ``__asgi_channel__``; the serializer's error for
        a value that it cannot pack.
        """
        through = self._through
        if through is None or type(message) is not dict or self._kind(channel) < 0 or CHANNEL_FIELD in message:
            carried = self._carried(channel, message)
        else:
            try:
                carried = through(message)
            except Exception as error:
                say_where(error, f"channel {channel}")
                raise
        self._stats.sends += 1
        try:
            state = self._loops.get(get_running_loop())
        except RuntimeError:
            state = None
        if not self._mailboxes.offer(channel, carried, NOWHERE if state is None else state.waker):
            self._stats.channel_full += 1
            raise ChannelFull(channel)
        if self._watchers:
            self._tell_watchers(False, channel, message)

    async def send_many(self, messages: Iterable[tuple[str, Message]]) -> None:
        """
        Send ``(channel, message)`` pairs in order.

        What ``send`` would refuse because of the message itself is refused before anything is sent. After that each
        message is sent, even if there is no room for others. Raises ``ChannelFull`` with the names of all full
        channels, each once.
        """
        pairs = list(messages)
        carried = [self._carried(channel, message) for channel, message in pairs]
        here = self._here()
        self._stats.sends += len(pairs)
        full: dict[str, None] = {}
        for (channel, message), each in zip(pairs, carried, strict=True):
            if not self._mailboxes.offer(channel, each, here):
                self._stats.channel_full += 1
                full[channel] = None
            elif self._watchers:
                self._tell_watchers(False, channel, message)
        if full:
            raise ChannelFull(", ".join(full))

    async def receive(self, channel: str) -> Message:
        """
        Wait for the next message of a channel and return it. With several receivers, the one that came first gets it.

        A cancelled receive loses nothing: a message that was given to it goes to the next receiver, or back.

        Raises ``TypeError`` for an invalid name, ``AssertionError`` for a specific channel of another layer.
        """
        waker = self._loops[get_running_loop()].waker
        local = self._kind(channel)
        if local < 0:
            local = self._checked_kind(channel)
        if local and not channel.endswith(self._client_prefix, 0, local - 1):
            raise AssertionError("Wrong client prefix")
        mailboxes = self._mailboxes
        if mailboxes.abandoned:
            mailboxes.clear_abandoned()
        now = monotonic()
        if mailboxes.due <= now:
            mailboxes.sweep(now)
        coming = mailboxes.claim(channel, waker)
        if not coming.done():
            try:
                await coming
            except BaseException as error:
                mailboxes.ended(channel, coming, error)
                raise
        self._stats.receives += 1
        return coming.take()

    def _reader(self, channel: str) -> Reader | None:
        """Return a reader that replaces ``receive`` on a specific channel of this layer; None for any other channel."""
        local = self._kind(channel)
        if local <= 0 or not channel.endswith(self._client_prefix, 0, local - 1):
            return None
        return Reader(self._mailboxes, self._stats, channel, self._loops[get_running_loop()].waker)

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return the name of a new specific channel that this layer can receive on."""
        return f"{prefix}.{self.client_prefix}!{unique_name()}"

    # Groups.

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group for ``group_expiry`` seconds from now. Raises ``TypeError`` for invalid names."""
        self._check_names(group, channel)
        with self._lock:
            self._add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """
        Remove a channel from a group and from its presence. Does nothing if it is not a member.

        Raises ``TypeError`` for invalid names.
        """
        self._check_names(group, channel)
        with self._lock:
            members = self.groups.get(group)
            if members is not None:
                members.pop(channel, None)
                if not members:
                    self.groups.pop(group, None)
            if self._presence is not None:
                self._tell(self._presence.leave(group, channel))

    async def group_send(self, group: str, message: Message, *, exclude: Iterable[str] | None = None) -> None:
        """
        Send a message to all channels of a group. Full channels are skipped, counted and logged.

        ``exclude``: names of channels that do not get the message, such as its sender's. They need not be in the group.

        Raises ``TypeError`` for an invalid name, or if ``exclude`` is not an iterable of names; ``AssertionError`` for
        a message that is not a dict or contains ``__asgi_channel__``; the serializer's error.
        """
        self._check_group_message(group, message)
        self._group_send(group, message, self._excluded(exclude))

    async def group_send_many(self, messages: Iterable[tuple[Any, ...]]) -> None:
        """
        Send ``(group, message)`` or ``(group, message, exclude)`` tuples in order.

        A wrong name or an invalid message is refused before anything is sent. After that each message is sent
        regardless of the others, and the first error of ``group_send``, in the order of the messages, is raised.
        """
        sends: list[tuple[str, Message, frozenset[str]]] = []
        for group, message, *exclude in listed(messages):
            self._check_group_message(group, message)
            sends.append((group, message, self._excluded(exclude[0] if exclude else None)))
        error: Exception | None = None
        for send in sends:
            try:
                self._group_send(*send)
            except Exception as reason:
                error = error or reason
        if error is not None:
            raise error

    async def group_count(self, group: str) -> int:
        """Return how many channels ``group_send`` would send to now. Raises ``TypeError`` for an invalid name."""
        self._check_names(group)
        with self._lock:
            return len(self._members(group))

    async def group_channels(self, group: str) -> list[str]:
        """Return the names of these channels, the last one added at the end. Raises what ``group_count`` raises."""
        self._check_names(group)
        with self._lock:
            return self._members(group)

    async def channel_depth(self, channel: str) -> int:
        """Return how many messages wait on a channel, not counting expired ones. Raises ``TypeError``."""
        if self._kind(channel) < 0:
            self.require_valid_channel_name(channel)
        return self._mailboxes.depth(channel)

    # Histories.

    async def group_history(self, group: str, since: str | None = None, limit: int | None = None) -> History:
        """
        Return messages that were sent to a group: those after the position ``since``, or all that are kept.

        ``limit``: how many at most: with ``since`` the oldest of them, so that reading can continue from the history's
        position; without ``since`` the newest. ``complete`` is True only if it is proven that none is missing; see
        ``History``.

        Raises ``RuntimeError`` for a group without a history, ``TypeError`` or ``ValueError`` for a wrong argument.
        """
        histories = self._require_histories()
        self._check_names(group)
        with self._lock:
            history = histories.read(group, since, limit)
        return history if since is None else self._counted(history)

    async def group_resume(self, group: str, channel: str, since: str | None) -> History:
        """
        Add a channel to a group as ``group_add`` does, and return what it has missed since a position.

        Anything sent to the group is either in the returned history or delivered to the channel. If ``since`` is None,
        returns everything that is kept. ``History`` explains ``complete``.

        Raises ``RuntimeError`` for a group without a history, ``TypeError`` for a wrong argument.
        """
        histories = self._require_histories()
        self._check_names(group, channel)
        with self._lock:
            history = histories.read(group, since, None, channel)
            self._add(group, channel)
        return self._counted(history)

    async def group_forget(self, group: str) -> None:
        """
        Delete the history of a group. Later messages to the group are recorded again.

        Raises ``RuntimeError`` for a group without a history.
        """
        histories = self._require_histories()
        self._check_names(group)
        with self._lock:
            histories.forget(group)

    # Presence.

    async def presence_join(self, group: str, channel: str, user: User | None, info: Any = None) -> None:
        """
        Make a user present in a group through a channel of this layer, until the channel leaves.

        Several channels of one user are one presence. When the first of them joins, the group is told with a message of
        type ``presence.join``; a channel that should receive it has to join the group with ``group_add``. ``info``:
        what others should know about the user; that of the last channel applies. None for the user stands for somebody
        without a name: each such channel counts as one more, and ``presence`` leaves it out.

        Raises ``RuntimeError`` without the option ``presence``; ``TypeError`` for a wrong name or a user that is
        neither a str nor an int; ``ValueError`` for a channel of another layer or a general channel; the serializer's
        error for an info that it cannot pack.
        """
        presence = self._require_presence("presence_join")
        self._check_names(group, channel)
        user_field(user, channel)
        bang = channel.find("!")
        if bang < 0 or not channel.endswith(self.client_prefix, 0, bang):
            raise ValueError(f"presence_join() takes channels of this process only, and {channel!r} is none.")
        info = self._carried_info(group, user, info)
        with self._lock:
            self._tell(presence.join(group, channel, user, info))

    async def presence_leave(self, group: str, channel: str | None = None, *, user: User | None = None) -> None:
        """
        End the presence of a channel in a group, or of all channels of a user. Does nothing if there is none.

        A user who was present through this channel alone stays present for the ``grace`` of the option ``presence``.
        Then the group is told with a message of type ``presence.leave``. A user whose channels are all ended leaves at
        once. ``group_discard`` ends the presence of a channel too.

        Raises ``RuntimeError`` without the option; ``TypeError`` for a wrong name or user, or unless exactly one of
        ``channel`` and ``user`` is given.
        """
        presence = self._require_presence("presence_leave")
        if (channel is None) == (user is None):
            raise TypeError("presence_leave() takes either a channel or a user")
        if channel is None:
            self._check_names(group)
            user_field(user)
        else:
            self._check_names(group, channel)
        with self._lock:
            events = presence.leave_due(group)
            events += presence.leave_all(group, user) if user is not None else presence.leave(group, channel or "")
            self._tell(events)

    async def presence(self, group: str) -> dict[User, Any]:
        """
        Return the present users of a group, each with their info, the longest present first.

        Raises ``RuntimeError`` without the option ``presence``, ``TypeError`` for an invalid name.
        """
        presence = self._require_presence("presence")
        self._check_names(group)
        with self._lock:
            self._tell(presence.leave_due(group))
            users = presence.users(group)
        return {user: self._carried_info(group, user, info) for user, info in users.items()}

    async def presence_count(self, group: str) -> int:
        """Return how many users are present in a group. Raises what ``presence`` raises."""
        presence = self._require_presence("presence_count")
        self._check_names(group)
        with self._lock:
            self._tell(presence.leave_due(group))
            return presence.count(group)

    # The rest of a layer.

    @cached_property
    def sync(self) -> SyncLayer:
        """The sends, groups, histories and presence of this layer as plain functions, without an event loop."""
        return SyncLayer(self, InlineCalls(any(overrides(type(self), name) for name in _SYNC)))

    async def flush(self) -> None:
        """Discard all messages, groups, histories and presence. Waiting receives keep waiting."""
        with self._lock:
            self.groups.clear()
            if self._histories is not None:
                self._histories.clear()
            if self._presence is not None:
                self._presence.clear()
            self._mailboxes.empty()

    async def close(self) -> None:
        """Do nothing. Exists because Channels' in-memory layer has it."""

    async def close_pools(self) -> None:
        """Do nothing. Exists because the other layers have it."""

    async def wait_received(self) -> None:
        """Do nothing, since nothing is left to wait for after a receive. Exists because the other layers have it."""

    def occupancy(self) -> dict[str, int]:
        """Return how many channels are present, by group; empty without the option ``presence``. Thread-safe."""
        if self._presence is None:
            return {}
        with self._lock:
            return self._presence.occupancy()

    def stats(self) -> LayerStats:
        """Return current statistics like the other layers. Values about connections and loops stay 0."""
        if self._mailboxes.due <= monotonic():
            self._mailboxes.sweep(monotonic())
        return super().stats()

    def _mailbox_limits(self) -> MailboxLimits:
        return self._limits

    @property
    def channels(self) -> ChannelQueues:
        """The channels with waiting messages or receivers, as Channels' in-memory layer presents them. A view."""
        return ChannelQueues(self._mailboxes, self._current_capacity, self._put)

    @channels.setter
    def channels(self, value: Mapping[str, Any]) -> None:
        if value:
            raise TypeError("channels can only be set to an empty dict: use send().")
        self._mailboxes.empty()

    def serialize(self, message: Message) -> bytes:
        """Return a message (a dict) as bytes. Raises the serializer's error for a value that it cannot pack."""
        return self._serializer.serialize(message)  # type: ignore[no-any-return]

    def deserialize(self, message: bytes) -> Message:
        """Return the message of such bytes. Raises the serializer's error for any other bytes."""
        return self._serializer.deserialize(message)  # type: ignore[no-any-return]

    @property
    def client_prefix(self) -> str:
        """The part before the ``!`` of the names of this layer's specific channels."""
        notice_fork()
        return self._client_prefix

    @client_prefix.setter
    def client_prefix(self, value: str) -> None:
        self._client_prefix = value

    def __str__(self) -> str:
        return f"{type(self).__name__}()"

    # Internals.

    def after_fork(self) -> None:
        """In a forked child: become a separate, empty layer."""
        self._begin()
        if self._histories is not None:
            self._histories.clear()
        if self._presence is not None:
            self._presence.clear()
        self._loops.forget()

    def _make_state(self, loop: asyncio.AbstractEventLoop) -> MemoryLoop:
        return MemoryLoop(loop, self._mailboxes)

    def _here(self) -> Waker:
        """Return the waker of the running event loop, or ``NOWHERE`` if nobody has received there yet."""
        try:
            state = self._loops.get(get_running_loop())
        except RuntimeError:
            return NOWHERE
        return NOWHERE if state is None else state.waker

    def _carried(self, channel: str, message: Message) -> Message:
        """Check a channel and a message for it. Return what its receiver gets."""
        if not isinstance(message, dict):
            raise AssertionError("message is not a dict")
        if self._kind(channel) < 0:
            self.require_valid_channel_name(channel)
        if CHANNEL_FIELD in message:
            raise AssertionError(f"message holds the reserved key {CHANNEL_FIELD}")
        if self._histories is not None:
            message = without_position(message)
        return self._carry(message, "channel", channel)

    def _put(self, channel: str, message: Message) -> bool:
        """Send a message if there is room. Return whether there was."""
        return self._mailboxes.offer(channel, self._carried(channel, message), self._here())

    def _group_send(self, group: str, message: Message, excluded: frozenset[str]) -> None:
        histories = self._histories
        with self._lock:
            history = None
            if histories is not None:
                message = without_position(message)
                history = histories.find(group)
            if histories is None or history is None:
                carried = self._carry(message, "group", group)
            else:
                carried = histories.record(group, history, message, excluded)
            self._deliver(group, message, carried, excluded)

    def _deliver(self, group: str, message: Message, carried: Message, excluded: frozenset[str]) -> None:
        """
        Deliver a message to all channels of a group. The caller holds the lock.

        ``message``: as it was sent. ``carried``: as it is received.
        """
        self._stats.group_sends += 1
        channels = self._members(group)
        if excluded:
            channels = [channel for channel in channels if channel not in excluded]
        if channels:
            full = self._mailboxes.offer_to_all(channels, carried, self._here())
            if full:
                self._stats.over_capacity += full
                logger.info("%s of %s channels over capacity in group %s", full, len(channels), group)
        if self._watchers:
            self._tell_watchers(True, group, message)

    def _add(self, group: str, channel: str) -> None:
        members = self.groups.setdefault(group, {})
        members.pop(channel, None)
        members[channel] = time.time()

    def _members(self, group: str) -> list[str]:
        """Return the channels of a group, without expired memberships. The caller holds the lock."""
        members = self.groups.get(group)
        if not members:
            return []
        limit = time.time() - self.group_expiry
        over = []
        for channel, added in members.items():
            # Members are ordered by time. Entries that other code has put there may have no time.
            if not added or added > limit:
                break
            over.append(channel)
        for channel in over:
            del members[channel]
        if not members:
            self.groups.pop(group, None)
        return list(members)

    def _tell(self, events: list[Event]) -> None:
        """
        Send presence events to groups, without recording them. The caller holds the lock, which keeps their order.
        """
        for group, message in events:
            self._deliver(group, message, self._carry(message, "group", group), NOBODY)

    def _leave_later(self, seconds: float) -> None:
        """After that time, remove users whose grace time is over. Runs in the I/O thread of the process."""
        # Without such a thread they leave at the next query.
        with contextlib.suppress(RuntimeError):
            loop = hub.current().loop
            loop.call_soon_threadsafe(loop.call_later, seconds, weakly(self._leave_due, instead=0))

    def _leave_due(self) -> None:
        """Called when a user's grace time may be over."""
        if self._presence is not None:
            with self._lock:
                self._tell(self._presence.leave_due())

    def _carried_info(self, group: str, user: User | None, info: Any) -> Any:
        """Return this user's info as a message would contain it."""
        return self._carry({"user": user, "info": info}, "presence in group", group)["info"]

    def _require_histories(self) -> GroupHistories:
        if self._histories is None:
            raise RuntimeError("No group has a history: this layer has no option 'history'.")
        return self._histories

    def _require_presence(self, caller: str) -> Presence:
        if self._presence is None:
            raise RuntimeError(f"{caller}() needs the option 'presence', which this layer does not have.")
        return self._presence

    def _check_group_message(self, group: str, message: Message) -> None:
        if not self._is_group(group):
            self.require_valid_group_name(group)
        if not isinstance(message, dict):
            raise AssertionError("message is not a dict")
        if CHANNEL_FIELD in message:
            raise AssertionError(f"message holds the reserved key {CHANNEL_FIELD}")

    def _check_names(self, group: str, *channels: str) -> None:
        if not self._is_group(group):
            self.require_valid_group_name(group)
        for channel in channels:
            if self._kind(channel) < 0:
                self.require_valid_channel_name(channel)

    def _checked_kind(self, channel: str) -> int:
        """Let Channels check a name that the compiled check does not accept. Return what ``kind`` would."""
        self.require_valid_channel_name(channel)
        return channel.find("!") + 1

    def _excluded(self, exclude: Iterable[str] | None) -> frozenset[str]:
        return NOBODY if exclude is None else checked(exclude, self._check_channel)

    def _check_channel(self, name: str) -> None:
        if self._kind(name) < 0:
            self.require_valid_channel_name(name)

    def _tell_watchers(self, is_group: bool, name: str, message: Message) -> None:
        for watcher in list(self._watchers):
            watcher(is_group, name, message)

    def _clean_expired(self) -> None:
        # Does what Channels' layer does under this name, for code that calls it.
        self._mailboxes.sweep(monotonic())
        with self._lock:
            for group in list(self.groups):
                self._members(group)

    def _capacities_changed(self) -> None:
        if hasattr(self, "_limits"):
            self._limits.capacity_of = self._mailbox_capacity()

    def _replaced(self, name: str) -> Any:
        method = getattr(self, name)
        return None if getattr(method, "__func__", None) is getattr(InMemoryChannelLayer, name) else method
