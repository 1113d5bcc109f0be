"""The reference twin of `_ext/codec.pyx`: converts plain msgpack messages to bytes and back, all in one place.

It knows the prefix length of a layer. The layout of the bytes belongs to `envelope`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from channels_redis_fast.hot.envelope import ORDERED_FROM, Message, decode, encode, frames, pack

#: The channel or channels that a message is addressed to (None if it names none), and the message.
Delivery = tuple[str | list[str] | None, Message]


class EnvelopeCodec:
    """msgpack without encryption: the envelope from end to end."""

    __slots__ = ("_prefix_length", "ordered")

    #: None: `clone` copies what is decoded here.
    copy: Callable[[Message], Message] | None = None

    def __init__(self, prefix_length: int, /) -> None:
        if prefix_length < 0:
            raise ValueError(f"a prefix has no negative length: {prefix_length}")
        self.ordered = prefix_length >= ORDERED_FROM
        self._prefix_length = prefix_length

    def encode(self, message: Message, channel: str | None, /) -> bytes:
        """Return the member for one message; ``channel`` is its full name, or None on a general channel."""
        return encode(message, channel, self._prefix_length)

    def encode_group(self, message: Message, channels: list[list[str]], /) -> list[bytes]:
        """Return one member for each key, addressed to the channels listed for it."""
        return frames(pack(message), channels, self._prefix_length)

    def decode(self, member: bytes, /) -> Delivery:
        """Return the address (None if the member has none) and the message. Raises for a member that is invalid."""
        return decode(member, self._prefix_length)

    def decode_all(self, members: Iterable[bytes], /) -> tuple[list[Delivery], list[Exception]]:
        """Return the deliveries in the members, in order, and the errors of the invalid ones."""
        deliveries: list[Delivery] = []
        errors: list[Exception] = []
        for member in members:
            try:
                deliveries.append(decode(member, self._prefix_length))
            except Exception as error:
                errors.append(error)
        return deliveries, errors
