"""
How a message gets from its sender to its receivers without a wire: as a copy.

To be copied as by a wire, a message is packed and unpacked by the layer's serializer: a tuple arrives as a list, and
anything that could not be sent to a server is refused. Without serialization, dicts and lists are copied, and all other
values are the same objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .. import options
from ..hot import EnvelopeCodec, clone, footprint, round_trip
from ..messages.codec import Codec, Message
from ..messages.errors import say_where


class Copying(Protocol):
    """A way to copy messages. Exceptions name the message's destination, by kind and name."""

    #: Copies a message returned by ``carry``, for each further receiver; None if ``clone`` does.
    copy: Callable[[Message], Message] | None

    def through(self, message: Message, /) -> Message:
        """Return what receivers get of a message of any size. Raises the serializer's error unchanged."""

    def carry(self, message: Message, kind: str, name: object, /) -> Message:
        """Return what receivers get. Raises the serializer's error; ``ValueError`` for a message that is too large."""

    def keep(self, message: Message, kind: str, name: object, /) -> tuple[Any, int]:
        """Return a message in its stored form, and its approximate size in bytes. Raises what ``carry`` raises."""

    def give(self, kept: Any, /) -> Message:
        """Return a separate copy of a stored message."""


class SerializedCopies:
    """Copies as made by a wire. ``max_size``: maximum bytes of a packed message, None for no limit."""

    def __init__(self, codec: Codec, max_size: int | None) -> None:
        self.copy = codec.copy
        self._encode = codec.encode
        self._decode = codec.decode
        self._max_size = max_size
        if isinstance(codec, EnvelopeCodec):
            self.through = round_trip  # type: ignore[method-assign]

    def through(self, message: Message, /) -> Message:
        return self._decode(self._encode(message, None))[1]

    def carry(self, message: Message, kind: str, name: object, /) -> Message:
        if self._max_size is None:
            try:
                return self.through(message)
            except Exception as error:
                say_where(error, f"{kind} {name}")
                raise
        return self.give(self.keep(message, kind, name)[0])

    def keep(self, message: Message, kind: str, name: object, /) -> tuple[Any, int]:
        try:
            packed = self._encode(message, None)
        except Exception as error:
            say_where(error, f"{kind} {name}")
            raise
        if self._max_size is not None:
            options.check_size(packed, self._max_size, f"{kind} {name}")
        return packed, len(packed)

    def give(self, kept: Any, /) -> Message:
        return self._decode(kept)[1]


class ObjectCopies:
    """Copies of a message's dicts and lists, which contain the sender's own objects."""

    copy: Callable[[Message], Message] | None = None

    def through(self, message: Message, /) -> Message:
        # For a subclass of dict, use the items that it shows, as serializers do.
        copy: Message = clone(message if type(message) is dict else dict(message.items()))
        return copy

    def carry(self, message: Message, kind: str, name: object, /) -> Message:
        try:
            return self.through(message)
        except Exception as error:
            say_where(error, f"{kind} {name}")
            raise

    def keep(self, message: Message, kind: str, name: object, /) -> tuple[Any, int]:
        copy = self.carry(message, kind, name)
        return copy, footprint(copy)

    def give(self, kept: Any, /) -> Message:
        copy: Message = clone(kept)
        return copy
