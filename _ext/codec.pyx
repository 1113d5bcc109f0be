"""Converts plain msgpack messages to bytes and back, all in one place. Twin: `hot/codec.py`.

It knows the prefix length of a layer. The layout of the bytes belongs to `envelope`.
"""

from channels_redis_fast._ext.envelope cimport decoded, encoded

from channels_redis_fast._ext.envelope import ORDERED_FROM, frames, pack


cdef class EnvelopeCodec:
    """EnvelopeCodec(prefix_length)
    --

    msgpack without encryption: the compiled envelope from end to end.
    """

    cdef readonly bint ordered
    cdef Py_ssize_t prefix_length

    copy = None  # `clone` copies what is decoded here.

    def __init__(self, Py_ssize_t prefix_length, /):
        if prefix_length < 0:
            raise ValueError(f"a prefix has no negative length: {prefix_length}")
        self.ordered = prefix_length >= ORDERED_FROM
        self.prefix_length = prefix_length

    def encode(self, message, channel, /):
        """Return the member for one message; ``channel`` is its full name, or None on a general channel."""
        return encoded(message, channel, self.prefix_length)

    def encode_group(self, message, channels, /):
        """Return one member for each key, addressed to the channels listed for it."""
        return frames(pack(message), channels, self.prefix_length)

    def decode(self, member, /):
        """Return the address (None if the member has none) and the message. Raises for a member that is invalid."""
        return decoded(member, self.prefix_length)

    def decode_all(self, members, /):
        """Return the deliveries in the members, in order, and the errors of the invalid ones."""
        cdef list deliveries = []
        cdef list errors = []
        for member in members:
            try:
                deliveries.append(decoded(member, self.prefix_length))
            except Exception as error:
                errors.append(error)
        return deliveries, errors
