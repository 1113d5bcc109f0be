"""Who waits for messages of which channel, and which messages are stored. Twin: `hot/mailboxes.py`.

It knows channels by name, and messages as dicts and lists. It does not know where messages come from, nor how long they
are kept.

Threads: everything here happens under the table's lock. The GIL is not enough: an allocation here may start the garbage
collector, which can run any code.
"""

cimport cython
from cpython.dict cimport PyDict_Copy, PyDict_DelItem, PyDict_GetItemWithError
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.pythread cimport (
    NOWAIT_LOCK, WAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock,
    PyThread_type_lock,
)
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.math cimport INFINITY

from time import monotonic

from channels_redis_fast._ext.envelope cimport clone_message, footprint_of_message, is_flat
from channels_redis_fast._ext.waiters cimport FINISHED, PENDING, Waiter, Waker


cdef enum:
    MAILBOX_BYTES = 500  # including the channel's name
    MESSAGE_BYTES = 150  # in addition to the message itself

cdef enum Giving:
    ORIGINAL
    SHARED
    COPY


cdef class Lock:
    """The equivalent of `threading.Lock`, at a fifth of its cost from compiled code."""

    cdef PyThread_type_lock _lock
    cdef bint _held

    def __cinit__(self):
        self._lock = PyThread_allocate_lock()
        if self._lock == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self._lock != NULL:
            if self._held:
                PyThread_release_lock(self._lock)
            PyThread_free_lock(self._lock)

    cdef void take(self) noexcept:
        if not PyThread_acquire_lock(self._lock, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self._lock, WAIT_LOCK)
        self._held = True

    cdef int give_back(self) except -1:
        # A lock that nobody holds must not be released: the next two callers would both get it.
        if not self._held:
            raise RuntimeError("release unlocked lock")
        self._held = False
        PyThread_release_lock(self._lock)
        return 0

    def acquire(self):
        """Wait for the lock and take it."""
        self.take()

    def release(self):
        """Release the lock. Raises `RuntimeError` if nobody holds it."""
        self.give_back()

    def __enter__(self):
        self.take()

    def __exit__(self, kind, error, traceback):
        self.give_back()


@cython.final
@cython.freelist(256)
cdef class StoredMessage:
    """StoredMessage(message, deadline, is_shared, place=inf, sent_at=0.0)
    --

    A message in one mailbox or, if `is_shared`, in those of several channels, where each receiver gets a copy of it.

    `deadline`: until when it is kept. `place`: the number of a receiver that was given it and has gone. `sent_at`: when
    it was sent if that is measured, otherwise 0. Times are monotonic. `holders`: how many mailboxes hold it. `size`:
    its approximate size in bytes.
    """

    cdef readonly object message
    cdef readonly double deadline
    cdef readonly bint is_shared
    cdef readonly double place
    cdef readonly double sent_at
    cdef readonly Py_ssize_t holders
    cdef readonly Py_ssize_t size

    def __init__(self, message, double deadline, bint is_shared, double place=INFINITY, double sent_at=0, /):
        self.message = message
        self.deadline = deadline
        self.is_shared = is_shared
        self.place = place
        self.sent_at = sent_at
        self.size = footprint_of_message(message) + MESSAGE_BYTES


@cython.final
cdef class Mailbox:
    """The messages of a channel that nobody has received yet, oldest first.

    `last_received`: when somebody last received on the channel (monotonic); if never, when the first of these came.
    """

    cdef readonly object channel
    cdef readonly double last_received
    cdef list _messages
    cdef Py_ssize_t _first  # the entries before it have been taken, and are None

    def __cinit__(self):
        self.channel = ""
        self._messages = []

    def __len__(self):
        return PyList_GET_SIZE(self._messages) - self._first

    def __iter__(self):
        return iter(self._messages[self._first:])

    cdef int _put(self, StoredMessage stored, bint first) except -1:
        cdef Py_ssize_t position = self._first
        if not first:
            self._messages.append(stored)
            return 0
        while (
            position < PyList_GET_SIZE(self._messages)
            and (<StoredMessage>PyList_GET_ITEM(self._messages, position)).place < stored.place
        ):
            position += 1
        if position == self._first and self._first:
            self._first -= 1
            self._messages[self._first] = stored
        else:
            self._messages.insert(position, stored)
        return 0

    cdef StoredMessage _oldest(self):
        if self._first >= PyList_GET_SIZE(self._messages):
            # Somebody else made this one.
            raise IndexError("an empty mailbox")
        return <StoredMessage>PyList_GET_ITEM(self._messages, self._first)

    cdef StoredMessage _pop(self):
        """Remove and return the oldest message."""
        cdef StoredMessage stored = self._oldest()
        self._messages[self._first] = None
        self._first += 1
        # The entries are moved occasionally, not each time: mailboxes may be long.
        if self._first >= 64 and 2 * self._first > PyList_GET_SIZE(self._messages):
            del self._messages[:self._first]
            self._first = 0
        return stored


cdef class MailboxTable:
    """MailboxTable(lock, copy=None, lag=None)
    --

    The waiting receivers and the stored messages, by channel.

    `waiting` has the receiver of a channel, or a list of several in order of arrival, which their `number` also tells.
    `stored` has its mailbox. A channel is in either one only while there is something. `held` is the approximate number
    of bytes that are stored. All of them change only under the `lock`. `copy` copies a message to several channels for
    each of them; without it, `clone` does. `lag` counts the time between sending and taking of messages for which it is
    known.
    """

    cdef readonly dict waiting
    cdef readonly dict stored
    cdef readonly Py_ssize_t held
    cdef Lock _lock
    cdef object _copy
    cdef object _lag
    cdef Py_ssize_t _claims

    def __cinit__(self):
        # In __cinit__, which always runs, whatever a subclass forgets.
        self._lock = Lock()
        self.waiting = {}
        self.stored = {}

    def __init__(self, Lock lock not None, copy=None, lag=None, /):
        self._lock = lock
        self._copy = copy
        self._lag = lag

    def claim(self, channel, Waker waker not None, /):
        """Return the waiter for a channel's next message; it already has the oldest stored message, if there is one.

        The subclass takes messages that have expired, or have to be copied, in `_take`.
        """
        cdef Waiter waiter = Waiter.__new__(Waiter)
        cdef PyObject *found
        waiter._waker = waker
        self._lock.take()
        try:
            self._claims += 1
            waiter.number = self._claims
            if self.stored:
                message = self._take_stored(channel)
                if message is not None:
                    waiter._finish(FINISHED, message)
                    return waiter
            found = PyDict_GetItemWithError(self.waiting, channel)
            if found == NULL:
                self.waiting[channel] = waiter
            elif type(<object>found) is list:
                (<list><object>found).append(waiter)
            else:
                self.waiting[channel] = [<object>found, waiter]
            return waiter
        finally:
            self._lock.give_back()

    cdef object _take_stored(self, object channel):
        """Take the oldest message of a channel, or return None."""
        cdef Mailbox mailbox
        cdef StoredMessage stored
        cdef double now
        cdef PyObject *found = PyDict_GetItemWithError(self.stored, channel)
        if found == NULL:
            return None
        mailbox = <Mailbox?><object>found
        stored = mailbox._oldest()
        now = monotonic()
        if stored.deadline > now and (not stored.is_shared or stored.holders == 1):
            self._pop(mailbox, channel, now)
            if stored.sent_at != 0 and self._lag is not None:
                self._lag.since(stored.sent_at)
            return stored.message
        return self._take(channel)

    def keep(self, list channels not None, StoredMessage stored not None, capacity_of, /):
        """Put a message into each mailbox that has room and on which nobody waits; return the other channels.

        A mailbox has room for one message whatever its capacity is. If the capacity cannot be determined, there is no
        room. A channel that is returned would be returned again as long as the lock is held, so the order is kept. The
        caller holds the lock.
        """
        cdef list left = []
        cdef bint has_room
        for channel in channels:
            try:
                has_room = self._has_room(channel, capacity_of)
            except Exception:
                # The caller asks again, and reports the error.
                has_room = False
            if has_room:
                self._put(channel, stored, False)
            else:
                left.append(channel)
        return left

    def keep_from(self, list deliveries not None, Py_ssize_t at, name, capacity_of, double deadline, double sent_at, /):
        """Put deliveries into their mailboxes, from a position on; return the position of the first that is left.

        It stops at a delivery to several channels, and at one that `keep` would leave. Stopping there keeps the order
        of each channel. `name` is the channel of deliveries that name none. The caller holds the lock.
        """
        cdef StoredMessage stored
        cdef bint has_room
        if at < 0:
            raise IndexError("a position is not negative")
        # The list may shrink while a capacity is looked up.
        while at < PyList_GET_SIZE(deliveries):
            delivery = deliveries[at]
            if type(delivery) is not tuple or PyTuple_GET_SIZE(delivery) != 2:
                raise TypeError("a delivery is a tuple of an address and a message")
            channel, message = <tuple>delivery
            if type(channel) is list:
                return at
            channel = channel or name
            try:
                has_room = self._has_room(channel, capacity_of)
            except Exception:
                # The caller asks again, and reports the error.
                return at
            if not has_room:
                return at
            stored = StoredMessage.__new__(StoredMessage)
            stored.message = message
            stored.deadline = deadline
            stored.sent_at = sent_at
            stored.place = INFINITY
            stored.size = footprint_of_message(message) + MESSAGE_BYTES
            self._put(channel, stored, False)
            at += 1
        return at

    cdef bint _has_room(self, object channel, object capacity_of) except -1:
        cdef PyObject *found
        cdef Py_ssize_t count
        if PyDict_GetItemWithError(self.waiting, channel) != NULL:
            return False
        capacity = capacity_of(channel)
        found = PyDict_GetItemWithError(self.stored, channel)
        if found == NULL:
            return True
        count = len(<Mailbox?><object>found)
        return count == 0 or count < capacity

    def hand_in(
        self, channel, message, Waker here not None, capacity_of, double lifetime, bint is_measured=True, /
    ):
        """Give a message to a channel's only receiver, in this loop, or store it if nobody waits and there is room.

        As in `keep`, there is room for at least one message. Takes the lock.

        Returns the bytes that were stored, 0 if a receiver has it, -1 if it is left to the caller. `here` is the waker
        of the current event loop. A stored message is kept for `lifetime` seconds. `is_measured`: whether the message
        is being sent now, so that its lag is measured from here. Raises what `capacity_of` does.
        """
        cdef PyObject *found
        cdef StoredMessage stored
        cdef Py_ssize_t before
        cdef double now
        self._lock.take()
        try:
            if self._give(channel, message, here, ORIGINAL):
                if is_measured and self._lag is not None:
                    self._lag.add(0.0)
                return 0
            if PyDict_GetItemWithError(self.waiting, channel) != NULL:
                return -1
            found = PyDict_GetItemWithError(self.stored, channel)
            if found != NULL and len(<Mailbox?><object>found) >= capacity_of(channel):
                return -1
            stored = StoredMessage.__new__(StoredMessage)
            stored.message = message
            now = monotonic()
            stored.deadline = now + lifetime
            stored.sent_at = now if is_measured else 0
            stored.place = INFINITY
            stored.size = footprint_of_message(message) + MESSAGE_BYTES
            before = self.held
            self._put(channel, stored, False)
            return self.held - before
        finally:
            self._lock.give_back()

    def put(self, channel, StoredMessage stored not None, bint first, /):
        """Put a message into the mailbox of a channel, at its end or `first`; return how many are in it then.

        Only messages that an earlier receiver was given stay in front of it. The caller holds the lock.
        """
        return self._put(channel, stored, first)

    cdef Py_ssize_t _put(self, object channel, StoredMessage stored, bint first) except -1:
        cdef Mailbox mailbox
        cdef PyObject *found = PyDict_GetItemWithError(self.stored, channel)
        if found == NULL:
            mailbox = Mailbox.__new__(Mailbox)
            mailbox.channel = channel
            mailbox.last_received = monotonic()
            self.stored[channel] = mailbox
            self.held += MAILBOX_BYTES
        else:
            mailbox = <Mailbox?><object>found
        mailbox._put(stored, first)
        if stored.holders == 0:
            self.held += stored.size
        stored.holders += 1
        return len(mailbox)

    def pop(self, channel, double received_at=0.0, /):
        """Remove and return the oldest message of a channel, or return None. The caller holds the lock.

        `received_at`: the current time (monotonic) if this is done for a receiver.
        """
        cdef PyObject *found = PyDict_GetItemWithError(self.stored, channel)
        if found == NULL:
            return None
        return self._pop(<Mailbox?><object>found, channel, received_at)

    cdef StoredMessage _pop(self, Mailbox mailbox, object channel, double received_at):
        cdef StoredMessage stored
        if received_at > 0:
            mailbox.last_received = received_at
        stored = mailbox._pop()
        stored.holders -= 1
        if stored.holders == 0:
            self.held -= stored.size
        if len(mailbox) == 0:
            PyDict_DelItem(self.stored, channel)
            self.held -= MAILBOX_BYTES
        return stored

    def expire(self, double now, /):
        """Throw away messages whose deadline has passed; return how many, and when the next one is due, or None.

        The caller holds the lock.
        """
        cdef Py_ssize_t count = 0
        cdef double due = 0
        cdef bint is_due = False
        cdef StoredMessage stored
        cdef Mailbox mailbox
        for channel, found in list(self.stored.items()):
            mailbox = <Mailbox?>found
            while len(mailbox):
                stored = mailbox._oldest()
                if stored.deadline > now:
                    if not is_due or stored.deadline < due:
                        is_due, due = True, stored.deadline
                    break
                self.pop(channel)
                count += 1
        return count, due if is_due else None

    def clear(self):
        """Throw away all messages. The caller holds the lock."""
        self.stored.clear()
        self.held = 0

    def line(self, channel, /):
        """Return the receivers of a channel, in order of arrival. The caller holds the lock."""
        found = self.waiting.get(channel)
        return list(found) if type(found) is list else [] if found is None else [found]

    def next_in_line(self, channel, /):
        """Remove and return the first receiver of a channel; None if nobody waits. The caller holds the lock."""
        found = self.waiting.get(channel)
        if found is not None:
            first = (<list>found)[0] if type(found) is list else found
            self.leave(channel, first)
            return first
        return None

    def leave(self, channel, waiter, /):
        """Remove a receiver from the line of a channel, if it is there. The caller holds the lock."""
        found = self.waiting.get(channel)
        if found is waiter:
            del self.waiting[channel]
        elif type(found) is list and waiter in <list>found:
            (<list>found).remove(waiter)
            if len(<list>found) == 1:
                self.waiting[channel] = (<list>found)[0]

    def hand_out(self, list deliveries not None, Waker here not None, /):
        """Give each delivery to the receiver that waits alone on its channel, in this loop; return the others.

        For a delivery to several channels, the first channel gets the message itself and each other one a copy. The
        channels that could not be served are returned with it. The second value is how many were given. `here` is the
        waker of the current event loop. The caller holds the lock. Once a delivery of a channel is left, so are its
        later ones, so the order is kept.
        """
        cdef list left = []
        cdef Py_ssize_t given = 0, before
        cdef list names
        for delivery in deliveries:
            if type(delivery) is not tuple or PyTuple_GET_SIZE(delivery) != 2:
                raise TypeError("a delivery is a tuple of an address and a message")
            address, message = <tuple>delivery
            if type(address) is list:
                before = PyList_GET_SIZE(address)
                names = self._give_to_others(<list>address, message, here)
                given += before - 1 - PyList_GET_SIZE(names) if before else 0
                if names:
                    left.append((names, message))
                if before == 0:
                    continue
                # The original comes last: nobody may change it while it is being copied.
                address = (<list>address)[0]
                delivery = None
            if self._give(address, message, here, ORIGINAL):
                given += 1
            else:
                left.append((address, message) if delivery is None else delivery)
        return left, given

    cdef list _give_to_others(self, list address, object message, Waker here):
        """Give a copy of a message to each channel but the first; return the channels that could not be served."""
        cdef list left = []
        cdef Py_ssize_t i
        cdef Giving giving = COPY
        if self._copy is None and PyList_GET_SIZE(address) > 1 and is_flat(message):
            # The message itself belongs to the first channel.
            giving, message = SHARED, PyDict_Copy(message)
        for i in range(1, PyList_GET_SIZE(address)):
            channel = address[i]
            if not self._give(channel, message, here, giving):
                left.append(channel)
        return left

    cdef bint _give(self, object channel, object message, Waker here, Giving giving) except -1:
        """Give a message, or a copy of it, to a channel's only receiver, in this loop; return whether that was done."""
        cdef PyObject *found
        cdef Waiter waiter
        if type(channel) is not str:
            return False
        found = PyDict_GetItemWithError(self.waiting, channel)
        if found == NULL or type(<object>found) is not Waiter:
            return False
        waiter = <Waiter>found
        if waiter._waker is not here or waiter._state != PENDING:
            return False
        if self.stored and channel in self.stored:
            # It will be called to take the stored message, which comes first.
            return False
        if giving == COPY:
            try:
                message = clone_message(message) if self._copy is None else self._copy(message)
            except Exception:
                # Nested too deeply, for example. The caller reports it with what is left; later ones are still given.
                return False
        PyDict_DelItem(self.waiting, channel)
        if giving == SHARED:
            waiter._share(message)
        else:
            waiter._finish(FINISHED, message)
        return True
