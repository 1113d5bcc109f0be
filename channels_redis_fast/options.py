"""
Checks of layer options: a wrong option is refused by name when the layer is made. Does not know layers.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

P = ParamSpec("P")

#: Where the options are described: the only link in errors.
DOCS = "https://channels-redis-fast.readthedocs.io/en/latest/"

#: Options that only one layer has, by the name of that layer.
ONLY = {
    "core layer": ("group_expiry", "random_prefix_length", "restore_groups"),
    "Pub/Sub layer": ("on_disconnect", "on_reconnect", "sharded"),
    "in-memory layer": ("serialize",),
}

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def explains_unknown(init: Callable[P, None]) -> Callable[P, None]:
    """Decorate the ``__init__`` of a layer: it raises ``TypeError`` with a suggestion for an unknown option."""
    parameters = list(inspect.signature(init).parameters.values())[1:]
    known = [parameter.name for parameter in parameters if parameter.kind not in _POSITIONAL]

    @wraps(init)
    def checked(*args: P.args, **options: P.kwargs) -> None:
        try:
            init(*args, **options)
        except TypeError:
            # Only checked here: a subclass may pass options on in a different way.
            unknown = [name for name in options if name not in known]
            if not unknown or len(parameters) > len(known):
                raise
            raise unknown_option(type(args[0]).__name__, unknown[0], known) from None

    return checked


def unknown_option(layer: str, name: str, known: Iterable[str]) -> TypeError:
    """Return the error for an option that a layer does not have. It names the closest one, or the layer that has it."""
    owners = [owner for owner, names in ONLY.items() if name in names]
    if owners:
        return TypeError(f"{layer} has no option '{name}'. It is an option of the {owners[0]}.")
    return TypeError(f"{layer} has no option '{name}'.{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence, after a space, that suggests the closest of the ``known`` names; ``""`` if none is close."""
    closest = difflib.get_close_matches(name.lower(), known, 1)
    return f" Did you mean '{closest[0]}'?" if closest else ""


def text(option: str, value: Any) -> str:
    """Return ``value`` if it is a str. Raises ``TypeError``, or ``ValueError`` if UTF-8 cannot encode it."""
    if not isinstance(value, str):
        raise TypeError(f"Option '{option}' must be a string, not {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"Option '{option}' cannot be written in UTF-8: {error}.") from None
    return value


def seconds(option: str, value: Any) -> int:
    """
    Return a number of seconds as an int, because Redis counts whole seconds. Raises ``TypeError`` or ``ValueError``.
    """
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


#: Minimum duration of a lease in seconds: a process renews it every third of that, and may be late by as much.
MIN_LEASE = 3


def lease(option: str, value: Any) -> float | None:
    """Return the duration of a lease in seconds, None for no lease. Raises ``TypeError`` or ``ValueError``."""
    if value is None:
        return None
    lasts = duration(option, value)
    if not MIN_LEASE <= lasts < 2**31:
        raise ValueError(f"Option '{option}' must be at least {MIN_LEASE} seconds and less than 2**31; it is {value}.")
    return lasts


def count(option: str, value: Any) -> int:
    """Return ``value`` if it is a non-negative whole number. Raises ``TypeError`` or ``ValueError`` otherwise."""
    value = _number(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Option '{option}' must be a whole number, not {type(value).__name__}.")
    if value < 0:
        raise ValueError(f"Option '{option}' must not be negative; it is {value}.")
    return value


def duration(option: str, value: Any) -> float:
    """Return a positive number of seconds, fractions allowed. Raises ``TypeError`` or ``ValueError``."""
    value = _number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"Option '{option}' must be a number of seconds, not {type(value).__name__}.")
    if not value > 0:
        raise ValueError(f"Option '{option}' must be more than no time at all; it is {value}.")
    return float(value)


def delay(option: str, value: Any) -> float:
    """Return a number of seconds, 0 allowed. Raises ``TypeError`` or ``ValueError``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"'{option}' must be a number of seconds, not {type(value).__name__}.")
    if not 0 <= value < float("inf"):
        raise ValueError(f"'{option}' must be 0 seconds or more, and come to an end; it is {value}.")
    return float(value)


def one_of(option: str, value: Any, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is allowed. Raises ``ValueError`` naming the allowed values otherwise."""
    if value not in allowed:
        raise ValueError(f"Option '{option}' must be one of {', '.join(map(repr, allowed))}; it is {value!r}.")
    return str(value)


def keys(option: str, value: Any) -> Any:
    """Return ``value`` if it can be a list of encryption keys. Raises ``TypeError`` otherwise."""
    if value is not None and not isinstance(value, (str, bytes)) and not isinstance(value, Iterable):
        raise TypeError(f"Option '{option}' must be a list of keys, not {type(value).__name__}.")
    # A single string instead of a list is refused by the serializer, as in channels_redis.
    return list(value) if value is not None and not isinstance(value, (str, bytes)) else value


def mapping(option: str, value: Any) -> Mapping[Any, Any]:
    """Return ``value`` if it is a mapping, ``{}`` for None. Raises ``TypeError`` otherwise."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"Option '{option}' must be a dict, not {type(value).__name__}.")
    return value


def _number(value: Any) -> Any:
    """Convert a str to a number, for settings that come from the environment. Return anything else as it is."""
    if isinstance(value, str):
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(value)
    return value


def size(option: str, value: Any) -> int | None:
    """
    Return ``value`` if it is None or a positive number of bytes. Raises ``TypeError`` or ``ValueError`` otherwise.
    """
    if value is None:
        return None
    if count(option, value) == 0:
        raise ValueError(f"Option '{option}' must be at least one byte, or None for no limit; it is 0.")
    return int(value)


def check_size(data: bytes, limit: int | None, where: str) -> None:
    """Raise ``ValueError`` for a message of more than ``limit`` bytes, naming its size and ``where`` it was going."""
    check_length(len(data), limit, where)


def check_length(length: int, limit: int | None, where: str) -> None:
    """Like ``check_size``, for a message of which only the length is known."""
    if limit is not None and length > limit:
        raise ValueError(f"Message for {where} has {length} bytes, more than 'max_message_size' ({limit}) allows.")
