"""The reference twin of `_ext/batches.pyx`: which message goes into which call, and which waiter gets its outcome.

It knows keys, members and capacities, and the form in which the script takes them. It does not know when a call is
written, nor what its reply means.
"""

from __future__ import annotations

from typing import Any

from channels_redis_fast.hot.waiters import _FINISHED, _PENDING, Waiter, Waker


class KeyBatch:
    """Messages for one key, in the order in which they were sent, with their capacities and waiters."""

    __slots__ = ("batch", "capacities", "key", "members", "waiters")

    def __init__(self, key: bytes, batch: Batch, /) -> None:
        self.key = key
        #: The call that they leave in, as long as it accepts more.
        self.batch: Batch | None = batch
        self.members: list[bytes] = []
        self.capacities: list[int] = []
        self.waiters: list[Waiter[bool]] = []

    def _put_arguments(self, arguments: list[Any]) -> None:
        members, capacities = self.members, self.capacities
        place = len(arguments)
        arguments.append(0)
        start = 0
        while start < len(members):
            end = start + 1
            while end < len(members) and capacities[end] == capacities[start]:
                end += 1
            arguments[place] += 1
            arguments += (capacities[start], end - start)
            arguments += members[start:end]
            start = end


class Batch:
    """The messages of one call, by key: ``messages`` of them, of ``size`` bytes together."""

    __slots__ = ("keys", "messages", "size")

    def __init__(self) -> None:
        self.keys: list[KeyBatch] = []
        self.messages = 0
        self.size = 0

    def take(self, batch: KeyBatch, /) -> None:
        """Add all messages of a key to this call."""
        self.keys.append(batch)
        self.messages += len(batch.members)

    def arguments(self, expiry: int, /) -> list[Any]:
        """Return the script's arguments: the number of keys, the keys, the expiry, and the runs of each key.

        The runs of a key are their number and, for each, the capacity, the number of messages and the members.
        """
        arguments: list[Any] = [len(self.keys)]
        arguments += [batch.key for batch in self.keys]
        arguments.append(expiry)
        for batch in self.keys:
            batch._put_arguments(arguments)
        return arguments

    def waiters(self) -> list[Waiter[bool]]:
        """Return the waiters of the messages, in order."""
        return [waiter for batch in self.keys for waiter in batch.waiters]

    def accept(self) -> None:
        """Resolve the waiters that are still pending: their messages were accepted."""
        for batch in self.keys:
            for waiter in batch.waiters:
                if waiter._state == _PENDING:
                    waiter._finish(_FINISHED, True)


class Gatherer:
    """Fills the batches of one tick after another. The subclass opens batches, and writes large ones early.

    `waker`: of the waiters. `per_key`, `messages`, `keys`, `size`: the maximum number of messages of one key, of
    messages, keys and bytes in one call. `early`: the number of messages from which `_write_early` is called; after
    each such call in a tick, it doubles. Where messages come one at a time, it is called for each.

    `is_idle`: set by the subclass when it opens a batch, if nothing else is under way. `was_alone`: whether that was so
    of the last batch, and it had one message.
    """

    __slots__ = (
        "_batch",
        "_early",
        "_first_early",
        "_keys",
        "_max_keys",
        "_messages",
        "_per_key",
        "_size",
        "_waker",
        "is_idle",
        "was_alone",
    )

    def __init__(self, waker: Waker, per_key: int, messages: int, keys: int, size: int, early: int, /) -> None:
        self._waker = waker
        self._per_key = per_key
        self._messages = messages
        self._max_keys = keys
        self._size = size
        self._first_early = self._early = early
        #: The batch of each key that can take more messages.
        self._keys: dict[bytes, KeyBatch] = {}
        self._batch: Batch | None = None
        self.is_idle = self.was_alone = False

    def send(self, key: bytes, member: bytes, capacity: int, /) -> Waiter[bool]:
        """Add one message to the tick's batch; return the waiter for its outcome."""
        waiter: Waiter[bool] = Waiter(self._waker)
        batch = self._keys.get(key)
        whole = None if batch is None else batch.batch
        if (
            batch is None
            or whole is None
            or len(batch.members) >= self._per_key
            or whole.messages >= self._messages
            or whole.size + len(member) > self._size
        ):
            batch, whole = self._begin(key, len(member))
        batch.members.append(member)
        batch.capacities.append(capacity)
        batch.waiters.append(waiter)
        whole.messages += 1
        whole.size += len(member)
        if whole.messages >= self._early:
            early = min(2 * self._early, self._messages)
            self._write_early()
            # Set afterwards: the batch that was just written is not a small one.
            self._early = early
        elif whole.messages == 1 and self.is_idle and self.was_alone:
            self._write_early()
        return waiter

    def _begin(self, key: bytes, size: int) -> tuple[KeyBatch, Batch]:
        whole = self._batch
        if (
            whole is None
            or len(whole.keys) >= self._max_keys
            or whole.messages >= self._messages
            or whole.size + size > self._size
        ):
            whole = self._batch = self._open()
        batch = self._keys[key] = KeyBatch(key, whole)
        whole.keys.append(batch)
        return batch, whole

    def seal(self, batch: Batch, /) -> None:
        """Add no more messages to a batch that is being written, or never will be."""
        if batch.messages < self._early:
            self._early = self._first_early
        if self._batch is batch:
            self._batch = None
            self.was_alone = self.is_idle and batch.messages == 1
        for mine in batch.keys:
            if self._keys.get(mine.key) is mine:
                del self._keys[mine.key]
            # Messages are freed as soon as they are settled, instead of waiting for the garbage collector.
            mine.batch = None

    def _open(self) -> Batch:
        raise NotImplementedError

    def _write_early(self) -> None:
        raise NotImplementedError


class PublishCommands:
    """Commands that leave together, each with its own waiter, which ends when a number is the reply.

    `queues`: one for each message, to be told that it was answered; or empty. `answered`: how many have been answered,
    or will not be. `size`: the size in bytes of the payloads. The subclass handles replies that are not numbers.
    """

    __slots__ = ("answered", "messages", "queues", "size", "waiters")

    def __init__(self, *arguments: Any) -> None:
        self.messages: list[Any] = []
        self.waiters: list[Waiter[None]] = []
        self.queues: list[Any] = []
        self.answered = 0
        self.size = 0

    def reply(self, reply: Any, /) -> bool:
        """Take the next reply; return whether all commands have to be written again, which is never the case."""
        if type(reply) is not int:
            return self._take_other(reply)
        at = self.answered
        if not 0 <= at < len(self.waiters):
            raise IndexError("a reply to no command")
        waiter = self.waiters[at]
        self.answered += 1
        if type(waiter) is Waiter and waiter._state == _PENDING:
            waiter._finish(_FINISHED, None)
        if self.queues:
            self.queues[at].answered()
        return False

    def _take_other(self, reply: Any) -> bool:
        raise NotImplementedError


class PublishGatherer:
    """Fills the batches of one tick after another. The subclass opens batches, and writes large ones early.

    `waker`: of the waiters. `word`: the command that publishes. `messages`, `size`: the maximum number of messages and
    of payload bytes in a batch. `early`: the number of messages from which `_write_early` is called, as it also is from
    `size` bytes on; after each call in a tick for the number of messages, it doubles. `is_idle`, `was_alone`: as in
    `Gatherer`.
    """

    __slots__ = ("_batch", "_early", "_first_early", "_messages", "_size", "_waker", "_word", "is_idle", "was_alone")

    def __init__(self, waker: Waker, word: bytes, messages: int, size: int, early: int, /) -> None:
        self._waker = waker
        self._word = word
        self._messages = messages
        self._size = size
        self._first_early = self._early = early
        #: The batch that can take more messages.
        self._batch: PublishCommands | None = None
        self.is_idle = self.was_alone = False

    def publish(self, channel: bytes, payload: bytes, queue: Any = None, /) -> Waiter[None]:
        """Add one message to the tick's batch; return the waiter for its outcome.

        `queue`: the object that is told when the message was answered, or None. Either all messages have one, or none
        has.
        """
        batch = self._batch
        if batch is None:
            batch = self._batch = self._open()
        waiter: Waiter[None] = Waiter(self._waker)
        batch.messages.append((self._word, channel, payload))
        batch.waiters.append(waiter)
        batch.size += len(payload)
        if queue is not None:
            batch.queues.append(queue)
        if len(batch.messages) >= self._early or batch.size >= self._size:
            self._begin_writing(batch)
        elif self.is_idle and self.was_alone and len(batch.messages) == 1:
            self._write_early()
        return waiter

    def _begin_writing(self, batch: PublishCommands) -> None:
        """Write a batch before the tick ends; if the socket does not take it and it is full, close it."""
        early = self._early
        if len(batch.messages) >= early:
            early = min(2 * early, self._messages)
        self._write_early()
        # Set afterwards: the batch that was just written is not a small one.
        self._early = early
        if self._batch is batch and (len(batch.messages) >= self._messages or batch.size >= self._size):
            self._batch = None

    def end_batch(self) -> None:
        """Add no more messages to the open batch: later ones must come after something else."""
        self._batch = None

    def seal(self, batch: PublishCommands, /) -> None:
        """Add no more messages to a batch that is being written, or never will be."""
        if self._batch is batch:
            self._batch = None
            self.was_alone = self.is_idle and len(batch.messages) == 1
            if len(batch.messages) < self._early:
                self._early = self._first_early

    def _open(self) -> PublishCommands:
        raise NotImplementedError

    def _write_early(self) -> None:
        raise NotImplementedError
