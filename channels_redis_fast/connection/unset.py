"""
Hosts with an empty address, as when an environment variable is not set.

A layer can be created with one, since settings are also read where no server is needed (``collectstatic``, building an
image). It cannot be used: every call, and ``manage.py check``, says which host it is. Knows decoded hosts. Never shows
anything of them except the empty part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

#: Replaces the missing address of an empty host while its keywords are checked.
_STAND_IN: dict[str, Any] = {"host": "localhost", "port": 6379}


def is_unset(value: Any) -> bool:
    """Return whether a value is None or blank text."""
    return value is None or (isinstance(value, str) and not value.strip())


def is_unset_address(address: Any) -> bool:
    """Return whether a URI is None, blank, or has the text ``None`` (from an f-string) as its host or port."""
    return is_unset(address) or (isinstance(address, str) and _has_none(address))


def unset_part(host: dict[str, Any], where: str) -> str | None:
    """Return a sentence that says what is empty in a decoded host, found at ``where``; None if nothing is."""
    for place, name, value in _empty_parts(host):
        return (
            f"Option {where}{place}: the {name} is empty ({value}), so there is no Redis server to connect to. "
            "Is an environment variable not set?"
        )
    return None


def stand_in(host: dict[str, Any]) -> dict[str, Any]:
    """Return a decoded host with its empty parts filled in, so that its other keywords can be checked."""
    if not any(_empty_parts(host)):
        return host
    if "cluster" in host:
        servers = [server for server in host["cluster"] if not any(_empty_parts(server))]
        return {**host, "cluster": servers or [_STAND_IN]}
    if "address" in host:
        # It is not known yet whether the address would use TLS.
        return {name: value for name, value in host.items() if name != "address" and not name.startswith("ssl_")}
    if "master_name" in host:
        return {**host, "master_name": "unset", "sentinels": [(_STAND_IN["host"], _STAND_IN["port"])]}
    if "path" in host:
        return {**host, "path": "unset"}
    return {**host, **_STAND_IN}


def _empty_parts(host: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the place within a host, the name and the value of each required part that is empty."""
    if "cluster" in host:
        for index, server in enumerate(host["cluster"]):
            for _, name, value in _empty_parts(server):
                yield f"['cluster'][{index}]", name, value
    elif "address" in host:
        if is_unset(host["address"]):
            yield "", "address", repr(host["address"])
        elif _has_none(host["address"]):
            yield "", "address", "its host or port is 'None'"
    elif "master_name" in host:
        if is_unset(host["master_name"]):
            yield "", "master_name", repr(host["master_name"])
        if is_unset(host["sentinels"]) or not host["sentinels"]:
            yield "", "list of sentinels", repr(host["sentinels"])
        elif isinstance(host["sentinels"], (tuple, list)):
            # redis-py refuses what is not a list.
            yield from _empty_sentinels(host["sentinels"])
    elif "path" in host:
        if is_unset(host["path"]):
            yield "", "path", repr(host["path"])
    elif "host" in host and is_unset(host["host"]):
        yield "", "host", repr(host["host"])


def _empty_sentinels(sentinels: Any) -> Iterator[tuple[str, str, str]]:
    for index, sentinel in enumerate(sentinels):
        place = f"['sentinels'][{index}]"
        if is_unset(sentinel):
            yield place, "address", repr(sentinel)
        elif isinstance(sentinel, (tuple, list)):
            # redis-py refuses what is not a pair.
            for name, value in zip(("host", "port"), sentinel, strict=False):
                if is_unset(value):
                    yield place, name, repr(value)


def _has_none(address: str) -> bool:
    try:
        place = urlsplit(address).netloc.rpartition("@")[2]
    except ValueError:
        return False
    host, _, port = place.rpartition(":")
    return "None" in (host, port)
