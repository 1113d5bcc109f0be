"""The reference twin of `_ext/batches.pyx`: which message goes into which call, and which waiter gets its outcome.

It knows keys, members and capacities, and the form in which the script takes them; not when a call is written, nor what
its reply means.
"""

from __future__ import annotations

from typing import Any

from channels_redis_fast.hot.waiters import _FINISHED, _PENDING, Waiter, Waker


class KeyBatch:
    """Messages for one key, in the order in which they were sent; their capacities and outcomes side by side."""

    __slots__ = ("batch", "capacities", "key", "members", "waiters")

    def __init__(self, key: bytes, batch: Batch, /) -> None:
        self.key = key
        #: What they leave in, as long as more can go with them.
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
        """Take the messages of a key, all of them, into this call."""
        self.keys.append(batch)
        self.messages += len(batch.members)

    def arguments(self, expiry: int, /) -> list[Any]:
        """Return what the script takes: the number of keys, the keys, the expiry, and the runs of each key.

        Those are their number, and each as the capacity, the number of messages, and the members.
        """
        arguments: list[Any] = [len(self.keys)]
        arguments += [batch.key for batch in self.keys]
        arguments.append(expiry)
        for batch in self.keys:
            batch._put_arguments(arguments)
        return arguments

    def waiters(self) -> list[Waiter[bool]]:
        """Return the waiters of the messages, in their order."""
        return [waiter for batch in self.keys for waiter in batch.waiters]

    def accept(self) -> None:
        """Resolve the waiters that are still pending: their messages were taken."""
        for batch in self.keys:
            for waiter in batch.waiters:
                if waiter._state == _PENDING:
                    waiter._finish(_FINISHED, True)


class Gatherer:
    """Fills the batches of one tick after the other. The subclass opens them, and writes what is worth it early.

    `waker`: of the waiters. `per_key`, `messages`, `keys`, `size`: how many messages of one key, messages, keys and
    bytes one call may hold. `early`: from how many messages on `_write_early` is called; in a tick in which it was, the
    next time at twice as many.
    """

    __slots__ = ("_batch", "_early", "_first_early", "_keys", "_max_keys", "_messages", "_per_key", "_size", "_waker")

    def __init__(self, waker: Waker, per_key: int, messages: int, keys: int, size: int, early: int, /) -> None:
        self._waker = waker
        self._per_key = per_key
        self._messages = messages
        self._max_keys = keys
        self._size = size
        self._first_early = self._early = early
        #: What more messages can still go into.
        self._keys: dict[bytes, KeyBatch] = {}
        self._batch: Batch | None = None

    def send(self, key: bytes, member: bytes, capacity: int, /) -> Waiter[bool]:
        """Add one message to the tick's batch; return the waiter of its outcome."""
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
            # Afterwards: the batch that was just written is not a small one.
            self._early = early
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
        """Take no more messages into a batch that is being written, or never will be."""
        if batch.messages < self._early:
            self._early = self._first_early
        if self._batch is batch:
            self._batch = None
        for mine in batch.keys:
            if self._keys.get(mine.key) is mine:
                del self._keys[mine.key]
            # So that messages go as soon as they are settled, and do not wait for the garbage collector.
            mine.batch = None

    def _open(self) -> Batch:
        raise NotImplementedError

    def _write_early(self) -> None:
        raise NotImplementedError


class PublishCommands:
    """Commands that leave together, each with a waiter of its own, which ends when a number answers it.

    `queues`: one for each message, to be told that it was answered; or empty. `answered`: how many have been, or will
    not be.
    `size`: bytes of the payloads that were put in. The subclass takes replies that are no numbers.
    """

    __slots__ = ("answered", "messages", "queues", "size", "waiters")

    def __init__(self, *arguments: Any) -> None:
        self.messages: list[Any] = []
        self.waiters: list[Waiter[None]] = []
        self.queues: list[Any] = []
        self.answered = 0
        self.size = 0

    def reply(self, reply: Any, /) -> bool:
        """Take the next reply; return whether all the commands have to be written again, which they never have."""
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
    """Fills the batches of one tick after the other. The subclass opens them, and writes what is worth it early.

    `waker`: of the waiters. `word`: the command that publishes. `messages`, `size`: how many messages and bytes of
    payloads a batch may hold. `early`: from how many messages, or at which size, on `_write_early` is called; in a tick
    in which it was for their number, the next time at twice as many.
    """

    __slots__ = ("_batch", "_early", "_first_early", "_messages", "_size", "_waker", "_word")

    def __init__(self, waker: Waker, word: bytes, messages: int, size: int, early: int, /) -> None:
        self._waker = waker
        self._word = word
        self._messages = messages
        self._size = size
        self._first_early = self._early = early
        #: What more messages can still go into.
        self._batch: PublishCommands | None = None

    def publish(self, channel: bytes, payload: bytes, queue: Any = None, /) -> Waiter[None]:
        """Add one message to the tick's batch; return the waiter of its outcome.

        `queue`: what is told when it was answered, None for nobody. It is the same for all messages: some, or None.
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
        return waiter

    def _begin_writing(self, batch: PublishCommands) -> None:
        """Have a batch written before the tick ends; if the socket does not take it, and it is full, end it."""
        early = self._early
        if len(batch.messages) >= early:
            early = min(2 * early, self._messages)
        self._write_early()
        # Afterwards: the batch that was just written is not a small one.
        self._early = early
        if self._batch is batch and (len(batch.messages) >= self._messages or batch.size >= self._size):
            self._batch = None

    def end_batch(self) -> None:
        """Take no more messages into the batch that is open: what comes now is to be behind something else."""
        self._batch = None

    def seal(self, batch: PublishCommands, /) -> None:
        """Take no more messages into a batch that is being written, or never will be."""
        if self._batch is batch:
            self._batch = None
            if len(batch.messages) < self._early:
                self._early = self._first_early

    def _open(self) -> PublishCommands:
        raise NotImplementedError

    def _write_early(self) -> None:
        raise NotImplementedError
