"""Gathers sends: which message goes into which call, and which waiter gets its outcome. Twin: `hot/batches.py`.

It knows keys, members and capacities, and the form in which the script takes them. It does not know when a call is
written, nor what its reply means.

Like a waiter, a batch is only touched in the thread of its loop.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.list cimport PyList_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject

from channels_redis_fast._ext.waiters cimport FINISHED, PENDING, Waiter, Waker


cdef class KeyBatch:
    """KeyBatch(key, batch)
    --

    Messages for one key, in the order in which they were sent, with their capacities and waiters.
    """

    cdef readonly object key
    cdef readonly Batch batch
    cdef readonly list members
    cdef readonly list capacities
    cdef readonly list waiters

    # In __cinit__, which always runs: without the lists, the C code below would crash.
    def __cinit__(self, key, Batch batch not None, /):
        self.key = key
        self.batch = batch
        self.members = []
        self.capacities = []
        self.waiters = []

    cdef int put_arguments(self, list arguments) except -1:
        cdef list capacities = self.capacities
        cdef Py_ssize_t count = PyList_GET_SIZE(capacities), start = 0, end, place
        cdef long long runs = 0
        place = PyList_GET_SIZE(arguments)
        arguments.append(None)
        while start < count:
            capacity = capacities[start]
            end = start + 1
            # Usually they are the same object.
            while end < count and (capacities[end] is capacity or capacities[end] == capacity):
                end += 1
            arguments.append(capacity)
            arguments.append(end - start)
            arguments.extend(self.members if end - start == count else self.members[start:end])
            runs += 1
            start = end
        arguments[place] = runs
        return 0


cdef class Batch:
    """The messages of one call, by key: ``messages`` of them, of ``size`` bytes together."""

    cdef readonly list keys
    cdef readonly Py_ssize_t messages
    cdef readonly Py_ssize_t size

    def __cinit__(self):
        self.keys = []

    def take(self, KeyBatch batch not None, /):
        """Add all messages of a key to this call."""
        self.keys.append(batch)
        self.messages += PyList_GET_SIZE(batch.members)

    def arguments(self, expiry, /):
        """Return the script's arguments: the number of keys, the keys, the expiry, and the runs of each key.

        The runs of a key are their number and, for each, the capacity, the number of messages and the members.
        """
        cdef list arguments = [PyList_GET_SIZE(self.keys)]
        cdef KeyBatch batch
        for batch in self.keys:
            arguments.append(batch.key)
        arguments.append(expiry)
        for batch in self.keys:
            batch.put_arguments(arguments)
        return arguments

    def waiters(self):
        """Return the waiters of the messages, in order."""
        cdef list waiters = []
        cdef KeyBatch batch
        for batch in self.keys:
            waiters.extend(batch.waiters)
        return waiters

    def accept(self):
        """Resolve the waiters that are still pending: their messages were accepted."""
        cdef KeyBatch batch
        for batch in self.keys:
            for waiter in batch.waiters:
                if type(waiter) is Waiter and (<Waiter>waiter)._state == PENDING:
                    (<Waiter>waiter)._finish(FINISHED, True)


cdef class Gatherer:
    """Gatherer(waker, per_key, messages, keys, size, early)
    --

    Fills the batches of one tick after another. The subclass opens batches, and writes large ones early.

    `waker`: of the waiters. `per_key`, `messages`, `keys`, `size`: the maximum number of messages of one key, of
    messages, keys and bytes in one call. `early`: the number of messages from which `_write_early` is called; after
    each such call in a tick, it doubles. Where messages come one at a time, it is called for each.

    `is_idle`: set by the subclass when it opens a batch, if nothing else is under way. `was_alone`: whether that was so
    of the last batch, and it had one message.
    """

    cdef public bint is_idle
    cdef readonly bint was_alone
    cdef Waker _waker
    cdef Py_ssize_t _per_key
    cdef Py_ssize_t _messages
    cdef Py_ssize_t _max_keys
    cdef Py_ssize_t _size
    cdef Py_ssize_t _first_early
    cdef Py_ssize_t _early
    cdef dict _keys
    cdef Batch _batch

    def __init__(
        self, Waker waker not None, Py_ssize_t per_key, Py_ssize_t messages, Py_ssize_t keys, Py_ssize_t size,
        Py_ssize_t early, /
    ):
        self._waker = waker
        self._per_key = per_key
        self._messages = messages
        self._max_keys = keys
        self._size = size
        self._first_early = self._early = early
        self._keys = {}
        self._batch = None

    def send(self, key, bytes member not None, capacity, /):
        """Add one message to the tick's batch; return the waiter for its outcome."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(member), early
        cdef Waiter waiter = Waiter.__new__(Waiter)
        cdef KeyBatch batch = self._find(key)
        cdef Batch whole
        waiter._waker = self._waker
        if batch is not None:
            whole = batch.batch
            if (
                whole is None
                or PyList_GET_SIZE(batch.members) >= self._per_key
                or whole.messages >= self._messages
                or whole.size + size > self._size
            ):
                batch = None
        if batch is None:
            batch = self._begin(key, size)
            whole = batch.batch
        batch.members.append(member)
        batch.capacities.append(capacity)
        batch.waiters.append(waiter)
        whole.messages += 1
        whole.size += size
        if whole.messages >= self._early:
            early = min(2 * self._early, self._messages)
            self._write_early()
            # Set afterwards: the batch that was just written is not a small one.
            self._early = early
        elif whole.messages == 1 and self.is_idle and self.was_alone:
            self._write_early()
        return waiter

    cdef KeyBatch _find(self, object key):
        """Return the batch of a key that can take more messages, or None."""
        cdef KeyBatch last
        cdef PyObject *found
        if self._batch is not None and PyList_GET_SIZE(self._batch.keys) == 1:
            # The key that all receivers of a process share is compared, not hashed.
            last = self._batch.keys[0]
            if last.key == key:
                return last
        found = PyDict_GetItemWithError(self._keys, key)
        return None if found == NULL else <KeyBatch>found

    cdef KeyBatch _begin(self, object key, Py_ssize_t size):
        cdef Batch whole = self._batch
        cdef KeyBatch batch
        if (
            whole is None
            or PyList_GET_SIZE(whole.keys) >= self._max_keys
            or whole.messages >= self._messages
            or whole.size + size > self._size
        ):
            whole = self._batch = self._open()
        batch = self._keys[key] = KeyBatch(key, whole)
        whole.keys.append(batch)
        return batch

    def seal(self, Batch batch not None, /):
        """Add no more messages to a batch that is being written, or never will be."""
        cdef KeyBatch mine
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


cdef class PublishCommands:
    """Commands that leave together, each with its own waiter, which ends when a number is the reply.

    `queues`: one for each message, to be told that it was answered; or empty. `answered`: how many have been answered,
    or will not be. `size`: the size in bytes of the payloads. The subclass handles replies that are not numbers.
    """

    cdef public list messages
    cdef public list waiters
    cdef public list queues
    cdef public Py_ssize_t answered
    cdef public Py_ssize_t size

    # In __cinit__, which always runs: a subclass may forget to call __init__.
    def __cinit__(self, *arguments):
        self.messages = []
        self.waiters = []
        self.queues = []

    def reply(self, reply, /):
        """Take the next reply; return whether all commands have to be written again, which is never the case."""
        cdef Py_ssize_t at = self.answered
        if not PyLong_CheckExact(reply):
            return self._take_other(reply)
        if self.waiters is None or at < 0 or at >= PyList_GET_SIZE(self.waiters):
            raise IndexError("a reply to no command")
        waiter = self.waiters[at]
        self.answered += 1
        if type(waiter) is Waiter and (<Waiter>waiter)._state == PENDING:
            (<Waiter>waiter)._finish(FINISHED, None)
        if self.queues:
            self.queues[at].answered()
        return False


cdef class PublishGatherer:
    """PublishGatherer(waker, word, messages, size, early)
    --

    Fills the batches of one tick after another. The subclass opens batches, and writes large ones early.

    `waker`: of the waiters. `word`: the command that publishes. `messages`, `size`: the maximum number of messages and
    of payload bytes in a batch. `early`: the number of messages from which `_write_early` is called, as it also is from
    `size` bytes on; after each call in a tick for the number of messages, it doubles. `is_idle`, `was_alone`: as in
    `Gatherer`.
    """

    cdef public bint is_idle
    cdef readonly bint was_alone
    cdef Waker _waker
    cdef object _word
    cdef Py_ssize_t _messages
    cdef Py_ssize_t _size
    cdef Py_ssize_t _first_early
    cdef Py_ssize_t _early
    cdef PublishCommands _batch

    def __init__(self, Waker waker not None, word, Py_ssize_t messages, Py_ssize_t size, Py_ssize_t early, /):
        self._waker = waker
        self._word = word
        self._messages = messages
        self._size = size
        self._first_early = self._early = early
        self._batch = None

    def publish(self, channel, bytes payload not None, queue=None, /):
        """Add one message to the tick's batch; return the waiter for its outcome.

        `queue`: the object that is told when the message was answered, or None. Either all messages have one, or none
        has.
        """
        cdef PublishCommands batch = self._batch
        cdef Waiter waiter = Waiter.__new__(Waiter)
        if batch is None:
            batch = self._open()
            if batch is None:
                raise TypeError("no batch was opened")
            self._batch = batch
        waiter._waker = self._waker
        batch.messages.append((self._word, channel, payload))
        batch.waiters.append(waiter)
        batch.size += PyBytes_GET_SIZE(payload)
        if queue is not None:
            batch.queues.append(queue)
        if len(batch.messages) >= self._early or batch.size >= self._size:
            self._begin_writing(batch)
        elif self.is_idle and self.was_alone and len(batch.messages) == 1:
            self._write_early()
        return waiter

    cdef int _begin_writing(self, PublishCommands batch) except -1:
        """Write a batch before the tick ends; if the socket does not take it and it is full, close it."""
        cdef Py_ssize_t early = self._early
        if len(batch.messages) >= early:
            early = min(2 * early, self._messages)
        self._write_early()
        # Set afterwards: the batch that was just written is not a small one.
        self._early = early
        if self._batch is batch and (len(batch.messages) >= self._messages or batch.size >= self._size):
            self._batch = None
        return 0

    def end_batch(self):
        """Add no more messages to the open batch: later ones must come after something else."""
        self._batch = None

    def seal(self, PublishCommands batch not None, /):
        """Add no more messages to a batch that is being written, or never will be."""
        if self._batch is batch:
            self._batch = None
            self.was_alone = self.is_idle and len(batch.messages) == 1
            if len(batch.messages) < self._early:
                self._early = self._first_early
