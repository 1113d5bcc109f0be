"""
Checks of layer options: a wrong one is refused when the layer is made, by name. Knows no layer.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

P = ParamSpec("P")

#: Where the options are described: the one link in errors.
DOCS = "https://channels-redis-fast.readthedocs.io/en/latest/"

#: Options that one layer has and another has not, by what that layer is called.
ONLY = {
    "core layer": ("group_expiry", "random_prefix_length", "restore_groups"),
    "Pub/Sub layer": ("on_disconnect", "on_reconnect", "sharded"),
    "in-memory layer": ("serialize",),
}

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def explains_unknown(init: Callable[P, None]) -> Callable[P, None]:
    """Decorate the ``__init__`` of a layer: it raises ``TypeError`` with a suggestion for an option that is unknown."""
    parameters = list(inspect.signature(init).parameters.values())[1:]
    known = [parameter.name for parameter in parameters if parameter.kind not in _POSITIONAL]

    @wraps(init)
    def checked(*args: P.args, **options: P.kwargs) -> None:
        try:
            init(*args, **options)
        except TypeError:
            # Looked at only here: a subclass may pass on what this one takes by other ways.
            unknown = [name for name in options if name not in known]
            if not unknown or len(parameters) > len(known):
                raise
            raise unknown_option(type(args[0]).__name__, unknown[0], known) from None

    return checked


def unknown_option(layer: str, name: str, known: Iterable[str]) -> TypeError:
    """Return the error for an option that a layer has not: it names the closest, or the layer that has it."""
    owners = [owner for owner, names in ONLY.items() if name in names]
    if owners:
        return TypeError(f"{layer} has no option '{name}'. It is an option of the {owners[0]}.")
    return TypeError(f"{layer} has no option '{name}'.{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the sentence, with a space before it, that suggests the closest of some names; ``""`` if none is close."""
    closest = difflib.get_close_matches(name.lower(), known, 1)
    return f" Did you mean '{closest[0]}'?" if closest else ""


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
