"""
From a message to the bytes that are stored in Redis, and back.

There are three ways. Exactly our msgpack serializer uses the compiled envelope; with encryption the envelope is
spliced first and one token is made for each key; everything else (JSON, a custom serializer, a subclass, an
overridden ``serialize`` of the layer) is called as channels_redis calls it. ``choose`` picks one when the layer is
created. Knows nothing of Redis keys, shards or the event loop.
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
    """One way of turning messages into members of a sorted set."""

    #: Whether members sort, byte by byte, in the order in which they were made in this process.
    ordered: bool
    #: What copies a decoded message, so that each receiver has one of its own; None where ``clone`` does.
    copy: Callable[[Message], Message] | None

    def encode(self, message: Message, channel: str | None, /) -> bytes:
        """Return the member for one message; ``channel`` is its full name, or None on a general channel."""

    def encode_group(self, message: Message, channels: list[list[str]], /) -> list[bytes]:
        """Return one member for each key, addressed to the channels listed for it."""

    def decode(self, member: bytes, /) -> Delivery:
        """Return the address (None when the member has none) and the message. Raises on what is neither."""

    def decode_all(self, members: Sequence[bytes], /) -> tuple[list[Delivery], list[Exception]]:
        """Return the deliveries in members, in order, and the errors of those that hold none."""


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
    """Any other serializer, called with a dict that holds the channel field, as channels_redis does."""

    def __init__(
        self, serialize: Callable[[Message], bytes], deserialize: Callable[[bytes], Any], ordered: bool
    ) -> None:
        self.ordered = ordered
        # What another serializer makes may hold more than dicts and lists.
        self.copy = deepcopy
        self._serialize = serialize
        self._deserialize = deserialize

    def encode(self, message: Message, channel: str | None, /) -> bytes:
        return _as_bytes(self._serialize(message if channel is None else _addressed(message, channel)))

    def encode_group(self, message: Message, channels: list[list[str]], /) -> list[bytes]:
        # A list of its own: a site's serializer may change it.
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
    The messages of Pub/Sub: the body alone. Its reserved field is the user's own there, and nothing is spliced.

    ``plain``: exactly our msgpack serializer, which the compiled functions stand for where a message is a dict, as all
    are but in channels_redis, whose Pub/Sub layer takes whatever the serializer takes.
    """

    ordered = False

    def __init__(self, serialize: Callable[[Message], bytes], deserialize: Callable[[bytes], Any], plain: bool) -> None:
        self._serialize = serialize
        self._deserialize = deserialize
        #: Whether dicts are packed as our msgpack.
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
                # No dict, or one with a reserved key that says something else; the serializer raises for the rest.
                pass
        message = self._deserialize(member)
        if message is None:
            raise ValueError("a message must not be None")
        return None, message


def _addressed(message: Message, address: str | list[str]) -> Message:
    # By ``items``, as serializers do: a subclass of dict (Django's QueryDict) may show others there than it holds.
    return {**dict(message.items()), CHANNEL_FIELD: address}


def _as_bytes(stored: Any) -> bytes:
    """Take from a serializer what redis-py would. Raises ``TypeError`` for what is neither bytes nor text."""
    if isinstance(stored, str):
        return stored.encode()
    if not isinstance(stored, (bytes, bytearray, memoryview)):
        raise TypeError(f"a serializer must return bytes, not {type(stored).__name__}")
    return bytes(stored)


def choose(serializer: Any, serialize: Callable[..., bytes] | None, deserialize: Callable[..., Any] | None) -> Codec:
    """
    Return the fastest codec that means the same as ``serializer``.

    ``serialize`` and ``deserialize`` are the layer's methods where a subclass overrides them, else None.
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


# What our methods were when this module was loaded: a site that patches or overrides one gets its own called.
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
