"""
Checks of layer options: a wrong one is refused when the layer is made, by name. Knows no layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def text(option: str, value: Any) -> str:
    """Return ``value`` if it is a str. Raises ``TypeError`` otherwise."""
    if not isinstance(value, str):
        raise TypeError(f"Option '{option}' must be a string, not {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Option '{option}' cannot be written in UTF-8: {error}.") from None
    return value


def seconds(option: str, value: Any) -> int:
    """Return a number of seconds as the whole seconds that Redis counts in. Raises ``TypeError``, ``ValueError``."""
    value = _number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Option '{option}' must be a number of seconds, not {type(value).__name__}.")
    if not 1 <= value < 2**31:
        raise ValueError(f"Option '{option}' must be at least one second and less than 2**31; it is {value}.")
    return int(value)


def flag(option: str, value: Any) -> bool:
    """Return ``value`` if it is True or False. Raises ``TypeError`` otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"Option '{option}' must be True or False, not {type(value).__name__}.")
    return value


#: Seconds that a lease lasts at least: a process renews it every third of that, and may be late by as much.
MIN_LEASE = 3


def lease(option: str, value: Any) -> float | None:
    """Return the duration of a lease in seconds, None for none. Raises ``TypeError`` or ``ValueError``."""
    if value is None:
        return None
    lasts = duration(option, value)
    if not MIN_LEASE <= lasts < 2**31:
        raise ValueError(f"Option '{option}' must be at least {MIN_LEASE} seconds and less than 2**31; it is {value}.")
    return lasts


def count(option: str, value: Any) -> int:
    """Return ``value`` if it is a whole number, not negative. Raises ``TypeError`` or ``ValueError`` otherwise."""
    value = _number(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Option '{option}' must be a whole number, not {type(value).__name__}.")
    if value < 0:
        raise ValueError(f"Option '{option}' must not be negative; it is {value}.")
    return value


def duration(option: str, value: Any) -> float:
    """Return a number of seconds, fractions allowed. Raises ``TypeError`` or ``ValueError``."""
    value = _number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Option '{option}' must be a number of seconds, not {type(value).__name__}.")
    if not value > 0:
        raise ValueError(f"Option '{option}' must be more than no time at all; it is {value}.")
    return float(value)


def delay(option: str, value: Any) -> float:
    """Return a number of seconds, none at all allowed. Raises ``TypeError`` or ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"'{option}' must be a number of seconds, not {type(value).__name__}.")
    if not 0 <= value < float("inf"):
        raise ValueError(f"'{option}' must be 0 seconds or more, and come to an end; it is {value}.")
    return float(value)


def one_of(option: str, value: Any, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of the allowed ones. Raises ``ValueError`` naming them otherwise."""
    if value not in allowed:
        raise ValueError(f"Option '{option}' must be one of {', '.join(map(repr, allowed))}; it is {value!r}.")
    return str(value)


def keys(option: str, value: Any) -> Any:
    """Return ``value`` if it can be a list of encryption keys. Raises ``TypeError`` otherwise."""
    if value is not None and not isinstance(value, (str, bytes)) and not isinstance(value, Iterable):
        raise TypeError(f"Option '{option}' must be a list of keys, not {type(value).__name__}.")
    # One string in place of the list is the serializer's to refuse, as in channels_redis.
    return list(value) if value is not None and not isinstance(value, (str, bytes)) else value


def mapping(option: str, value: Any) -> Mapping[Any, Any]:
    """Return ``value`` if it is a mapping, ``{}`` for None. Raises ``TypeError`` otherwise."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"Option '{option}' must be a dict, not {type(value).__name__}.")
    return value


def _number(value: Any) -> Any:
    """Return the number that a text is, as settings take it from the environment; anything else as it is."""
    if isinstance(value, str):
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(value)
    return value


def size(option: str, value: Any) -> int | None:
    """Return ``value`` if it is None or a number of bytes above 0. Raises ``TypeError`` or ``ValueError`` otherwise."""
    if value is None:
        return None
    if count(option, value) == 0:
        raise ValueError(f"Option '{option}' must be at least one byte, or None for no limit; it is 0.")
    return int(value)


def check_size(data: bytes, limit: int | None, where: str) -> None:
    """Raise ``ValueError`` for a message of more than ``limit`` bytes, with its size and ``where`` it was going."""
    check_length(len(data), limit, where)


def check_length(length: int, limit: int | None, where: str) -> None:
    """``check_size`` for a message of which only the length is known."""
    if limit is not None and length > limit:
        raise ValueError(f"Message for {where} has {length} bytes, more than 'max_message_size' ({limit}) allows.")
