"""
What a server reports about itself: version, memory, clients, time. Read-only. Every command may be refused: an ACL for
chat processes usually forbids INFO and CLIENT LIST.

Knows the text formats of INFO and CLIENT LIST. Knows layers only by the names of their connections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from redis.exceptions import ResponseError

from ..connection.hosts import HostOptions
from .line import Line

#: The beginning of the names of this package's connections.
OWN_NAME = "channels_redis_fast:"


@dataclass
class Facts:
    """What one server reports about itself. Fields that it does not report are empty."""

    #: The fields of INFO, or of HELLO if INFO is refused.
    info: Mapping[str, str] = field(default_factory=dict)
    #: The other connections to the line's database, each with the fields of CLIENT LIST; None if it is refused.
    clients: list[dict[str, str]] | None = None
    keys: int | None = None
    refused: list[str] = field(default_factory=list)

    @property
    def server(self) -> str | None:
        """The engine: ``redis``, ``valkey``, or whatever else the server calls itself."""
        if "valkey_version" in self.info:
            return "valkey"
        return self.info.get("server_name") or ("redis" if "redis_version" in self.info else self.info.get("server"))

    @property
    def version(self) -> str | None:
        """The version of the engine."""
        names = ("valkey_version", "redis_version", "version")
        return next((self.info[name] for name in names if name in self.info), None)

    @property
    def cpu_seconds(self) -> float | None:
        """Seconds of processor time that the server has used since it started, without its child processes."""
        try:
            return float(self.info["used_cpu_sys"]) + float(self.info["used_cpu_user"])
        except (KeyError, ValueError):
            return None

    def number(self, name: str) -> int | None:
        """Return an INFO field that is a whole number, or None."""
        text = self.info.get(name, "")
        return int(text) if text.isdecimal() else None


async def ask_facts(line: Line) -> Facts:
    """
    Return what the server of a line reports about itself.

    Raises ``redis.exceptions.ConnectionError`` naming the host.
    """
    facts = Facts()
    info, clients, own_id, keys = await line.ask((b"INFO",), (b"CLIENT", b"LIST"), (b"CLIENT", b"ID"), (b"DBSIZE",))
    if isinstance(info, Exception):
        facts.refused.append("INFO")
        (hello,) = await line.ask((b"HELLO", b"2"))
        facts.info = {} if isinstance(hello, Exception) else _pairs(hello)
    else:
        facts.info = _fields(info)
    if isinstance(clients, Exception):
        facts.refused.append("CLIENT LIST")
    else:
        facts.clients = _same_database(_clients(clients), own_id)
    if isinstance(keys, int):
        facts.keys = keys
    return facts


def is_refusal(error: object) -> str | None:
    """Return why a command may not be used (``"ACL"``, ``"unknown"``), None if the error means something else."""
    if isinstance(error, ResponseError):
        text = str(error).lower()
        if text.startswith("noperm") or "no permissions" in text:
            return "ACL"
        if "unknown command" in text or "unknown subcommand" in text:
            return "unknown"
    return None


def own_connections(clients: list[dict[str, str]], host: HostOptions) -> dict[str, int]:
    """
    Count the connections of this package by layer and role, such as ``core:receiver``.

    If a site names its connections itself, they are counted under that name.
    """
    named = client_name(host)
    counts: Counter[str] = Counter()
    for client in clients:
        name = client.get("name", "")
        if name.startswith(OWN_NAME):
            counts[name.removeprefix(OWN_NAME)] += 1
        elif named and name == named:
            counts[name] += 1
    return dict(sorted(counts.items()))


def nameless_receivers(clients: list[dict[str, str]]) -> int:
    """Count connections without a name that wait in BZPOPMIN, as those of channels_redis do."""
    return sum(client.get("cmd") == "bzpopmin" and not client.get("name") for client in clients)


def client_name(host: HostOptions) -> str:
    """Return the name that a host sets for its connections, or ``""``."""
    query = dict(parse_qsl(urlsplit(host.get("address", "")).query))
    return str(query.get("client_name") or host.get("client_name") or "")


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _pairs(hello: Any) -> dict[str, str]:
    texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in hello]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _clients(listing: bytes) -> list[dict[str, str]]:
    return [
        dict(part.partition("=")[::2] for part in line.split(" ") if "=" in part)
        for line in listing.decode("utf-8", "replace").splitlines()
        if line
    ]


def _same_database(clients: list[dict[str, str]], own_id: Any) -> list[dict[str, str]]:
    """Leave out the connection that asks, and those to the server's other databases: other shards, or other users'."""
    own = next((client for client in clients if client.get("id") == str(own_id)), None)
    if own is None:
        return clients
    return [client for client in clients if client is not own and client.get("db") == own.get("db")]
