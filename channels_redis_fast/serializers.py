"""
Message formats: the registry, msgpack, JSON, and Fernet encryption around either.

The public names and their meaning are those of ``channels_redis.serializers``, so a serializer written for it works
here unchanged. Knows nothing of channels, Redis or the event loop. ``codec.py`` has the compiled shortcut for exactly
these classes.
"""

from __future__ import annotations

import abc
import base64
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import msgpack

from .hot import next_prefix

try:
    from cryptography.fernet import Fernet, MultiFernet
except ImportError:
    Fernet = MultiFernet = None  # type: ignore[assignment,misc]

#: Seconds that a token may be older than the message expiry before it is rejected, as in channels_redis.
CLOCK_TOLERANCE = 10

_NO_CRYPTOGRAPHY = (
    "Encryption (option 'symmetric_encryption_keys') needs the package 'cryptography': "
    "pip install channels-redis-fast[cryptography]"
)


def unpack(message: bytes, **options: Any) -> Any:
    """
    Return what ``msgpack.packb`` packed; ``options`` are those of ``msgpack.unpackb``.

    Unlike ``unpackb`` with its defaults, it accepts keys that are neither text nor bytes, as ``packb`` does.
    """
    options.setdefault("strict_map_key", False)
    return msgpack.unpackb(message, **options)


class SerializerDoesNotExist(KeyError):
    """The requested serializer was not found."""


class BaseMessageSerializer(abc.ABC):
    """
    Base of serializers: subclasses define ``as_bytes`` and ``from_bytes``.

    ``symmetric_encryption_keys``: a list of str or bytes; the first encrypts, all decrypt. ``random_prefix_length``:
    bytes put in front, outside the encryption, so that equal messages are distinct members of a sorted set (see
    ``hot.next_prefix``). ``expiry``: message lifetime in seconds; older tokens are rejected.

    Raises ``ValueError`` if the keys are not a list, or ``cryptography`` is not installed.
    """

    def __init__(
        self,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 0,
        expiry: int | None = None,
    ) -> None:
        self.random_prefix_length = random_prefix_length
        self.expiry = expiry
        self.crypter = self._make_crypter(symmetric_encryption_keys)

    def _make_crypter(self, keys: Iterable[str | bytes] | None) -> MultiFernet | None:
        if not keys:
            return None
        if isinstance(keys, (str, bytes)):
            raise ValueError("Option 'symmetric_encryption_keys' takes a list of keys; put the single key into a list.")
        return MultiFernet([self.make_fernet(key) for key in keys])

    def make_fernet(self, key: str | bytes) -> Fernet:
        """Make the Fernet for one key: from the SHA-256 of its UTF-8 bytes, base64-encoded."""
        if Fernet is None:
            raise ValueError(_NO_CRYPTOGRAPHY)
        if isinstance(key, str):
            key = key.encode()
        if not isinstance(key, bytes):
            raise ValueError(
                f"symmetric_encryption_keys must hold strings or bytes; one of them is {type(key).__name__}"
            )
        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest()))

    @abc.abstractmethod
    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """Return the message as bytes, without prefix and encryption."""

    @abc.abstractmethod
    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        """Return the message from the bytes that ``as_bytes`` returned."""

    def serialize(self, message: Any) -> bytes:
        """Return the message as stored in Redis: random prefix, then the body, encrypted if there are keys."""
        return self.seal(self.as_bytes(message))

    def deserialize(self, message: bytes) -> Any:
        """Return the message from stored bytes. Raises what ``from_bytes`` or the decryption raises."""
        return self.from_bytes(self.unseal(message))

    def seal(self, body: bytes) -> bytes:
        """Encrypt a body if there are keys, and put the random prefix in front."""
        if self.crypter is not None:
            body = self.crypter.encrypt(body)
        return next_prefix(self.random_prefix_length) + body if self.random_prefix_length > 0 else body

    def unseal(self, stored: bytes) -> bytes:
        """Undo ``seal``. Raises ``cryptography.fernet.InvalidToken`` for an unknown key or an expired token."""
        body = stored[self.random_prefix_length :] if self.random_prefix_length > 0 else stored
        if self.crypter is None:
            return body
        return self.crypter.decrypt(body, None if self.expiry is None else self.expiry + CLOCK_TOLERANCE)


class JSONSerializer(BaseMessageSerializer):
    """``json.dumps`` in UTF-8, which RFC 8259 section 8.1 requires between systems."""

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        """Return the message as JSON text in UTF-8; further arguments are those of ``json.dumps``."""
        return json.dumps(message, *args, **kwargs).encode()

    from_bytes = staticmethod(json.loads)  # type: ignore[assignment]


class MsgPackSerializer(BaseMessageSerializer):
    """``msgpack.packb`` with its defaults, and a reader for everything that it writes."""

    as_bytes = staticmethod(msgpack.packb)
    from_bytes = staticmethod(unpack)


class SerializersRegistry:
    """Serializer classes by format name; the option ``serializer_format`` is looked up here."""

    def __init__(self) -> None:
        self._registry: dict[Any, type[Any]] = {}

    def register_serializer(self, format: Any, serializer_class: type[Any]) -> None:
        """
        Register a class under a format name, replacing any previous one.

        Raises ``AssertionError`` unless it is a class that derives from ``BaseMessageSerializer`` or has ``serialize``
        and ``deserialize``.
        """
        if not (
            isinstance(serializer_class, type)
            and (
                issubclass(serializer_class, BaseMessageSerializer)
                or (hasattr(serializer_class, "serialize") and hasattr(serializer_class, "deserialize"))
            )
        ):
            raise AssertionError(
                "`serializer_class` must be a class with `serialize` and `deserialize` methods, "
                "for instance a subclass of `channels_redis_fast.serializers.BaseMessageSerializer`"
            )
        self._registry[format] = serializer_class

    def get_serializer(self, format: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the serializer of a format. Raises ``SerializerDoesNotExist`` (a ``KeyError``) for an unknown one."""
        try:
            serializer_class = self._registry[format]
        except KeyError:
            raise SerializerDoesNotExist(format) from None
        return serializer_class(*args, **kwargs)


registry = SerializersRegistry()
registry.register_serializer("json", JSONSerializer)
registry.register_serializer("msgpack", MsgPackSerializer)


def make_serializer(format: Any, **options: Any) -> Any:
    """
    Make the serializer that a layer's option ``serializer_format`` names.

    Raises ``ValueError`` or ``TypeError`` naming the option. It raises no ``KeyError``, which
    ``SerializerDoesNotExist`` is: ``channels.layers.get_channel_layer`` would take it for a layer that is not
    configured, and return None.
    """
    try:
        return registry.get_serializer(format, **options)
    except SerializerDoesNotExist:
        raise ValueError(f"Option 'serializer_format' names {format!r}, which is not registered.") from None
    except KeyError as error:
        raise ValueError(f"Option 'serializer_format': the serializer {format!r} cannot be made: {error!r}") from error
    except TypeError as error:
        if isinstance(format, str):
            raise
        raise TypeError(f"Option 'serializer_format' must be a string: {error}.") from None
