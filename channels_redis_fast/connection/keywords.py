"""
The values of a host's connection keywords: checked by name when the layer is created, and converted from text.

redis-py accepts most values unchecked and fails with them at the first call, or misreads them. Knows the keywords whose
values can be wrong in that way. redis-py decides which keywords exist.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable, Mapping
from typing import Any

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def decode_keywords(options: dict[str, Any], where: str) -> dict[str, Any]:
    """
    Return a host's keywords with values of the right types. Numbers and booleans may be given as text.

    Raises ``TypeError`` or ``ValueError`` naming ``where`` and the keyword.
    """
    decoded = dict(options)
    for name, value in options.items():
        decode = _KEYWORDS.get(name)
        if decode is not None:
            decoded[name] = decode(value, f"{where}: '{name}'")
    return decoded


def _seconds(value: Any, what: str) -> float | None:
    """Decode a duration. None means no limit to redis-py and the default to us."""
    if value is None:
        return None
    number = _number(value, what)
    if not 0 < number < math.inf:
        raise ValueError(f"{what} must be a number of seconds above 0; it is {value!r}.")
    return number


def _interval(value: Any, what: str) -> float:
    number = _number(value, what)
    if not 0 <= number < math.inf:
        raise ValueError(f"{what} must be a number of seconds, 0 for never; it is {value!r}.")
    return number


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{what} must be a number of seconds, not {type(value).__name__}.")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{what} must be a number of seconds; it is {value!r}.") from None
    return value


def _database(value: Any, what: str) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be the number of a database; it is {value!r}.")
    if value < 0:
        raise ValueError(f"{what} must not be negative; it is {value}.")
    return value


def _flag(value: Any, what: str) -> bool:
    if isinstance(value, str):
        if value.lower() not in (*_TRUE, *_FALSE):
            raise ValueError(f"{what} must be True or False; it is {value!r}.")
        return value.lower() in _TRUE
    if value not in (True, False, None):
        raise TypeError(f"{what} must be True or False, not {type(value).__name__}.")
    return bool(value)


def _tls(value: Any, what: str) -> bool:
    if isinstance(value, ssl.SSLContext):
        raise TypeError(
            f"{what} must be True or False: redis-py makes the SSLContext itself, from 'ssl_ca_certs', 'ssl_certfile', "
            "'ssl_keyfile', 'ssl_cert_reqs' and the like. It would not use this one."
        )
    return _flag(value, what)


def _maybe_flag(value: Any, what: str) -> bool | None:
    return None if value is None else _flag(value, what)


def _socket_options(value: Any, what: str) -> Mapping[int, int | bytes] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a dict, not {type(value).__name__}.")
    for name, setting in value.items():
        if isinstance(name, bool) or not isinstance(name, int):
            raise TypeError(f"{what}: keys are constants such as socket.TCP_KEEPIDLE, not {name!r}.")
        if not isinstance(setting, (int, bytes)):
            raise TypeError(f"{what}: values are whole numbers, not {setting!r}.")
    return value


_KEYWORDS: dict[str, Callable[[Any, str], Any]] = {
    "db": _database,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
    "health_check_interval": _interval,
    "socket_keepalive": _maybe_flag,
    "socket_keepalive_options": _socket_options,
    "retry_on_timeout": _flag,
    "ssl": _tls,
    "ssl_check_hostname": _flag,
}
