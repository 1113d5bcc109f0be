"""
Converts a message to the bytes that are stored in Redis, and back.

There are three ways. If the serializer is exactly our msgpack serializer, the compiled envelope is used. With
encryption, the envelope is spliced first and one token is made for each key. Everything else (JSON, a custom
serializer, a subclass, an overridden ``serialize`` of the layer) is called as channels_redis calls it. ``choose`` picks
one when the layer is created. Knows nothing of Redis keys, shards or the event loop.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Protocol

from ..hot import ORDERED_FROM, EnvelopeCodec, decode, encode, pack, splice
from ..serializers import BaseMessageSerializer, MsgPackSerializer

#: The field that carries the full channel name beside the message: a str for one channel, a list for a group.
CHANNEL_FIELD = "__asgi_channel__"

Message = dict[str, Any]
Address = str | list[str] | None
#: A message with its address: one channel, several, or None for the key's only channel.
Delivery = tuple[Address, Message]


class Codec(Protocol):
    """One way to convert messages to members of a sorted set."""

    #: Whether members sort bytewise in the order in which they were made in this process.
    ordered: bool
    #: Copies a decoded message, so that each receiver has its own; None if ``clone`` does.
    copy: Callable[[Message], Message] | None

    def encode(self, message: Message, channel: str | None, /) -> bytes:
        """Return the member for one message; ``channel`` is its full name, or None on a general channel."""

    def encode_group(self, message: Message, channels: list[list[str]], /) -> list[bytes]:
        """Return one member for each key, addressed to the channels listed for it."""

    def decode(self, member: bytes, /) -> Delivery:
        """Return the address (None if the member has none) and the message. Raises for a member that is invalid."""

    def decode_all(self, members: Sequence[bytes], /) -> tuple[list[Delivery], list[Exception]]:
        """Return the deliveries in the members, in order, and the errors of the invalid ones."""


class SingleMessageCodec(abc.ABC):
    """Base of the codecs that decode members one by one."""

    copy: Callable[[Message], Message] | None = None

    @abc.abstractmethod
    def decode(self, member: bytes, /) -> Delivery:
        """Return the address and the message."""

    def decode_all(self, members: Sequence[bytes], /) -> tuple[list[Delivery], list[Exception]]:
        deliveries: list[Delivery] = []
        errors: list[Exception] = []
        for member in members:
            try:
                deliveries.append(self.decode(member))
            except Exception as error:
                errors.append(error)
        return deliveries, errors


class EncryptedCodec(SingleMessageCodec):
    """msgpack with encryption: the compiled envelope inside a Fernet token."""

    def __init__(self, serializer: MsgPackSerializer) -> None:
        self.ordered = serializer.random_prefix_length >= ORDERED_FROM
        self._seal = serializer.seal
        self._unseal = serializer.unseal

    def encode(self, message: Message, channel: str | None, /) -> bytes:
        return self._seal(encode(message, channel, 0))

    def encode_group(self, message: Message, channels: list[list[str]], /) -> list[bytes]:
        body = pack(message)
        return [self._seal(splice(body, names)) for names in channels]

    def decode(self, member: bytes, /) -> Delivery:
        return decode(self._unseal(member), 0)


class SerializerCodec(SingleMessageCodec):
    """Any other serializer, called with a dict that contains the channel field, as channels_redis does."""

    def __init__(
        self, serialize: Callable[[Message], bytes], deserialize: Callable[[bytes], Any], ordered: bool
    ) -> None:
        self.ordered = ordered
        # Another serializer may produce more than dicts and lists.
        self.copy = deepcopy
        self._serialize = serialize
        self._deserialize = deserialize

    def encode(self, message: Message, channel: str | None, /) -> bytes:
        return _as_bytes(self._serialize(message if channel is None else _addressed(message, channel)))

    def encode_group(self, message: Message, channels: list[list[str]], /) -> list[bytes]:
        # A separate list each time: a site's serializer may change it.
        return [_as_bytes(self._serialize(_addressed(message, [*names]))) for names in channels]

    def decode(self, member: bytes, /) -> Delivery:
        message = self._deserialize(member)
        if not isinstance(message, dict):
            raise ValueError(f"a message must be a dict, not {type(message).__name__}")
        if CHANNEL_FIELD not in message:
            return None, message
        address = message.pop(CHANNEL_FIELD)
        names = address if isinstance(address, list) else [address]
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{CHANNEL_FIELD} must be a channel name or a list of them")
        return address, message


class PayloadCodec(SingleMessageCodec):
    """
    The messages of Pub/Sub: the body alone. The reserved field is left to the user there, and nothing is spliced.

    ``plain``: whether the serializer is exactly our msgpack serializer. Then the compiled functions replace it for
    every message that is a dict. All messages are dicts, except from channels_redis, whose Pub/Sub layer accepts
    whatever the serializer accepts.
    """

    ordered = False

    def __init__(self, serialize: Callable[[Message], bytes], deserialize: Callable[[bytes], Any], plain: bool) -> None:
        self._serialize = serialize
        self._deserialize = deserialize
        #: Whether dicts are packed like our msgpack.
        self.is_plain = plain
        self.copy = None if plain else deepcopy

    def encode(self, message: Message, channel: str | None, /) -> bytes:
        if self.is_plain and isinstance(message, dict):
            return encode(message, None, 0)
        return _as_bytes(self._serialize(message))

    def encode_group(self, message: Message, channels: list[list[str]], /) -> list[bytes]:
        return [self.encode(message, None)] * len(channels)

    def decode(self, member: bytes, /) -> Delivery:
        if self.is_plain:
            try:
                address, message = decode(member, 0)
                if address is None:
                    return None, message
            except ValueError:
                # Not a dict, or a dict with another value under the reserved key. The serializer raises for everything
                # else.
                pass
        message = self._deserialize(member)
        if message is None:
            raise ValueError("a message must not be None")
        return None, message


def _addressed(message: Message, address: str | list[str]) -> Message:
    # Through ``items``, as serializers do: a subclass of dict (Django's QueryDict) may return other values there.
    return {**dict(message.items()), CHANNEL_FIELD: address}


def _as_bytes(stored: Any) -> bytes:
    """Accept from a serializer what redis-py would. Raises ``TypeError`` for anything but bytes and text."""
    if isinstance(stored, str):
        return stored.encode()
    if not isinstance(stored, (bytes, bytearray, memoryview)):
        raise TypeError(f"a serializer must return bytes, not {type(stored).__name__}")
    return bytes(stored)


def prefix_length_of(codec: Codec) -> int:
    """Return the length in bytes of the random prefix of a member, for a codec whose members are a prefix and a map."""
    # Without entries, a map is its header.
    return len(codec.encode({}, None)) - 1


def choose(serializer: Any, serialize: Callable[..., bytes] | None, deserialize: Callable[..., Any] | None) -> Codec:
    """
    Return the fastest codec that is equivalent to ``serializer``.

    ``serialize`` and ``deserialize`` are the layer's methods if a subclass overrides them, otherwise None.
    """
    sealed = serialize is None and deserialize is None and _seals_as_we_do(serializer)
    if sealed and _packs_as_we_do(serializer):
        if serializer.crypter is not None:
            return EncryptedCodec(serializer)
        return EnvelopeCodec(max(serializer.random_prefix_length, 0))
    return SerializerCodec(
        serialize or serializer.serialize,
        deserialize or serializer.deserialize,
        sealed and serializer.random_prefix_length >= ORDERED_FROM,
    )


def choose_payload(
    serializer: Any, serialize: Callable[..., bytes] | None, deserialize: Callable[..., Any] | None
) -> PayloadCodec:
    """Return the codec of a Pub/Sub layer; the arguments are those of ``choose``."""
    plain = (
        serialize is None
        and deserialize is None
        and _seals_as_we_do(serializer)
        and _packs_as_we_do(serializer)
        and serializer.crypter is None
        and serializer.random_prefix_length <= 0
    )
    return PayloadCodec(serialize or serializer.serialize, deserialize or serializer.deserialize, plain)


# Our methods as they were when this module was loaded: if a site patches or overrides one, its own is called.
_PRISTINE = {
    owner: {name: vars(owner)[name] for name in names}
    for owner, names in (
        (BaseMessageSerializer, ("serialize", "deserialize", "seal", "unseal")),
        (MsgPackSerializer, ("as_bytes", "from_bytes")),
    )
}


def _seals_as_we_do(serializer: Any) -> bool:
    return isinstance(serializer, BaseMessageSerializer) and _is_pristine(serializer, BaseMessageSerializer)


def _packs_as_we_do(serializer: Any) -> bool:
    return type(serializer) is MsgPackSerializer and _is_pristine(serializer, MsgPackSerializer)


def _is_pristine(serializer: Any, owner: type[Any]) -> bool:
    return all(inspect.getattr_static(serializer, name) is method for name, method in _PRISTINE[owner].items())
