"""
The ``hosts`` option: checks what a user wrote and converts it to one form.

Knows the shapes that ``channels_redis`` documents (URIs, pairs, dicts, Sentinel dicts), the shape of a cluster, and how
to name a host in a log line without its password. Opens nothing and does not know redis-py. redis-py decides which
connection keywords exist (``connection.Dialer`` asks it when the layer is created).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from .keywords import decode_keywords
from .unset import is_unset, is_unset_address, unset_part

logger = logging.getLogger("channels_redis_fast")

HostOptions = dict[str, Any]

DEFAULT_HOST = "redis://localhost:6379"
SCHEMES = ("redis", "rediss", "unix")

#: A host name or address with or without a port, and nothing that could be part of a password.
_PLACE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")

#: Keywords that locate a server without ``host`` and ``port``.
_OTHER_WAYS = frozenset({"address", "path", "master_name"})


def decode_hosts(hosts: Any) -> list[HostOptions]:
    """
    Convert the ``hosts`` option to a list of redis-py keyword dicts, one for each shard.

    A URI becomes ``{"address": uri}`` and a pair ``{"host": host, "port": port}``; a dict is copied. For a cluster,
    ``{"cluster": [...], **keywords}``, the servers in the list are converted to that form. A cluster must be the only
    host. ``None`` and empty sequences mean ``redis://localhost:6379``, as in channels_redis 4.3. A host that is itself
    empty is kept as it is (``unset`` has the rules), also beside others in the list.

    What redis-py would refuse or channels_redis ignores, and what can have only one meaning, is omitted and logged: TLS
    keywords (``ssl_*``) for a connection without TLS, and items after the port in a pair.

    Raises ``ValueError`` if ``hosts`` is a string instead of a list. Raises ``TypeError`` or ``ValueError`` naming
    ``hosts`` and the position of an entry that is not a host.
    """
    if isinstance(hosts, (str, bytes)):
        text = hosts.decode("utf-8", "replace") if isinstance(hosts, bytes) else hosts
        raise ValueError(f"Option 'hosts' takes a list; put the one host into a list.{_suggest(text, is_alone=True)}")
    if not hosts:
        return [{"address": DEFAULT_HOST}]
    if isinstance(hosts, Mapping):
        if "cluster" not in hosts:
            raise TypeError(
                "Option 'hosts' must be a list of hosts; it is a dict. Put the dict into a list. Did you mean [{...}]?"
            )
        hosts = [hosts]
    try:
        entries = list(hosts)
    except TypeError:
        raise TypeError(f"Option 'hosts' must be a list of hosts, not {type(hosts).__name__}.") from None
    if _is_pair(entries):
        host, port = entries
        raise ValueError(f"Option 'hosts' is a list of hosts, and this is one host. Did you mean [({host!r}, {port})]?")
    places = [f"hosts[{index}]" for index in range(len(entries))]
    decoded = [_without_tls(_decode_host(entry, where), where) for entry, where in zip(entries, places, strict=True)]
    if len(decoded) > 1 and any(is_cluster(host) for host in decoded):
        raise ValueError(
            "Option 'hosts': a cluster spreads the load by itself, so it must be the only host in the list."
        )
    return decoded


def is_cluster(options: HostOptions) -> bool:
    """Return whether a decoded host is a Redis Cluster."""
    return "cluster" in options


def host_label(options: HostOptions) -> str:
    """Name a host for logs and errors: ``host:port``, a socket path, a Sentinel set, a cluster; never a credential."""
    if is_cluster(options):
        return f"cluster:{host_label(options['cluster'][0])}"
    if unset_part(options, ""):
        return "(no address)"
    if "master_name" in options:
        return f"sentinel:{options['master_name']}"
    if "address" in options:
        parts = urlsplit(options["address"])
        if parts.scheme == "unix":
            return parts.path
        return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
    if "path" in options:
        return str(options["path"])
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


def _decode_host(entry: Any, where: str) -> HostOptions:
    if isinstance(entry, Mapping):
        return _decode_dict(entry, where)
    if isinstance(entry, (tuple, list)):
        return _decode_pair(entry, where)
    if entry is None or isinstance(entry, str):
        return {"address": _decode_address(entry, where)}
    raise TypeError(f"{where} must be a URI, a (host, port) pair or a dict, not {type(entry).__name__}.")


def _decode_pair(entry: Sequence[Any], where: str) -> HostOptions:
    if len(entry) < 2:
        raise ValueError(f"{where} must be a (host, port) pair; it has {len(entry)} item{'s'[: len(entry) != 1]}.")
    host, port, *others = entry
    options = _decode_place({"host": host, "port": port}, where)
    if others:
        # Only their types: a password may be among them.
        logger.warning(
            "Option %s: what follows host and port (%s) has no effect on %s, as in channels_redis. Keywords go into a "
            "dict: {'host': ..., 'port': ..., ...}",
            where,
            ", ".join(type(other).__name__ for other in others),
            host_label(options),
        )
    return options


def _decode_dict(entry: Mapping[Any, Any], where: str) -> HostOptions:
    options = dict(entry)
    for name in options:
        if not isinstance(name, str):
            raise TypeError(f"{where}: keys must be strings, not {name!r}.")
    if "cluster" in options:
        _decode_cluster(options, where)
    if "address" in options:
        if "master_name" in options:
            raise ValueError(f"{where}: 'address' and 'master_name' exclude each other.")
        options["address"] = _decode_address(options["address"], where)
    if ("master_name" in options) != ("sentinels" in options):
        raise ValueError(f"{where}: 'sentinels' and 'master_name' belong together; one of them is missing.")
    if not _OTHER_WAYS.isdisjoint(options):
        # Settings that have a key for each way and fill in only one.
        options = {
            name: value for name, value in options.items() if name not in ("host", "port") or not is_unset(value)
        }
    return decode_keywords(_decode_place(options, where), where)


def _decode_place(options: HostOptions, where: str) -> HostOptions:
    decoded = dict(options)
    if "host" in options:
        decoded["host"] = _decode_name(options["host"], where)
    # If the host is empty, the port usually is too.
    if "port" in options and not (is_unset(options["port"]) and is_unset(options.get("host", "localhost"))):
        decoded["port"] = _decode_port(options["port"], where)
    for name, types in (("path", (str, bytes, os.PathLike)), ("master_name", (str, bytes))):
        value = options.get(name)
        if value is not None and not isinstance(value, types):
            raise TypeError(f"{where}: {name!r} must be a string, not {type(value).__name__}.")
    return decoded


def _without_tls(options: HostOptions, where: str) -> HostOptions:
    """Omit and log the TLS keywords of a host that clearly has no TLS: redis-py would fail with them."""
    if not _is_plainly_plain(options):
        return options
    names: dict[str, None] = {}
    kept = _strip_tls(options, names)
    if is_cluster(options):
        kept["cluster"] = [_strip_tls(server, names) for server in options["cluster"]]
    if names:
        logger.warning(
            "Option %s: %s without effect, since the connection to %s is not encrypted. A URI of one that is begins "
            "with rediss://",
            where,
            ", ".join(map(repr, names)),
            host_label(kept),
        )
    return kept


def _strip_tls(options: HostOptions, names: dict[str, None]) -> HostOptions:
    """Return a host or a server without TLS keywords, also in its URI; add their names to ``names``."""
    names.update(dict.fromkeys(name for name in options if name.startswith("ssl_")))
    kept = {name: value for name, value in options.items() if not name.startswith("ssl_")}
    if "address" in kept and not is_unset_address(kept["address"]):
        parts = urlsplit(kept["address"])
        query = _query(parts.query)
        plain = [(name, value) for name, value in query if not name.startswith("ssl_")]
        if len(plain) < len(query):
            names.update(dict.fromkeys(name for name, _ in query if name.startswith("ssl_")))
            kept["address"] = urlunsplit(parts._replace(query=urlencode(plain)))
    return kept


def _is_plainly_plain(options: HostOptions) -> bool:
    """Return whether a host says that it has no TLS: with a scheme, or with ``ssl`` set to False."""
    if options.get("ssl") or "connection_class" in options:
        return False
    # In a cluster, the first URI stands for all servers.
    addresses = [server.get("address") for server in options.get("cluster", [options]) if "address" in server]
    if addresses:
        return not is_unset_address(addresses[0]) and urlsplit(addresses[0]).scheme != "rediss"
    return "ssl" in options


def _decode_cluster(options: HostOptions, where: str) -> None:
    servers = options["cluster"]
    if isinstance(servers, (str, bytes, Mapping)) or not isinstance(servers, Sequence):
        raise TypeError(f"{where}: 'cluster' must be a list of some of the cluster's servers.")
    if not servers:
        raise ValueError(f"{where}: 'cluster' must name at least one of the cluster's servers.")
    for name in ("address", "host", "port", "path", "sentinels", "master_name"):
        if name in options:
            raise ValueError(f"{where}: '{name}' and 'cluster' exclude each other.")
    if options.get("db"):
        raise ValueError(f"{where}: a cluster has no database but 0, and 'db' is {options['db']!r}.")
    options["cluster"] = [
        _decode_server(server, f"{where}['cluster'][{index}]") for index, server in enumerate(servers)
    ]


def _decode_server(server: Any, where: str) -> HostOptions:
    # It may already be decoded, as in ``layer.hosts``.
    if isinstance(server, Mapping) and set(server) not in ({"address"}, {"host", "port"}):
        raise TypeError(
            f"{where} must be a URI or a (host, port) pair; what is for all servers stands beside 'cluster'."
        )
    decoded = _decode_host(server, where)
    if str(decoded.get("address")).startswith("unix:"):
        raise ValueError(f"{where}: servers of a cluster are reached by host and port, not by a unix socket.")
    return decoded


def _decode_address(address: Any, where: str) -> str | None:
    if is_unset_address(address):
        return address  # type: ignore[no-any-return]
    if not isinstance(address, str):
        raise TypeError(f"{where}: 'address' must be a URI string, not {type(address).__name__}.")
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  the attribute is what validates the port
    except ValueError:
        # Not urllib's text, which repeats parts of the URI: part of a misread password may be among them.
        raise ValueError(
            f"{where}: the URI cannot be read. Is something in the password not percent-encoded?"
        ) from None
    if parts.scheme not in SCHEMES:
        raise ValueError(
            f"{where}: a URI begins with redis://, rediss:// or unix://, and this one does not.{_suggest(address)}"
        )
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not (database.isascii() and database.isdigit()):
        # redis-py ignores it and uses database 0. It may be a misplaced password, so it is not shown.
        raise ValueError(f"{where}: what follows the host in a URI is the number of a database, and here it is none.")
    # The data path speaks RESP2, and in redis-py a query option overrides the keyword that sets it.
    query = [(name, value) for name, value in _query(parts.query) if name != "protocol"]
    if len(query) == len(_query(parts.query)):
        return address
    return urlunsplit(parts._replace(query=urlencode(query)))


def _is_pair(entries: list[Any]) -> bool:
    """Return whether a list of hosts is really one host's name and port, without the enclosing list."""
    if len(entries) != 2 or not isinstance(entries[0], str) or not _PLACE.fullmatch(entries[0]):
        return False
    port = entries[1]
    return (isinstance(port, int) and not isinstance(port, bool)) or (isinstance(port, str) and port.isdecimal())


def _suggest(text: str, is_alone: bool = False) -> str:
    """
    Return the sentence that says what was meant, with a leading space.

    ``is_alone``: whether the text stands in place of the list. Only a plain name and port are repeated: anything else
    may contain a password.
    """
    if text.split("://", 1)[0] in SCHEMES and "://" in text:
        meant = f"{text.split('://', 1)[0]}://..."
        parts = text.split("://", 1)[1]
        if _PLACE.fullmatch(parts):
            meant = text
    elif text.startswith("/") and "@" not in text and ":" not in text:
        meant = f"unix://{text}"
    elif _PLACE.fullmatch(text):
        meant = f"redis://{text}"
    else:
        meant = "redis://USER:PASSWORD@HOST:PORT"
    return f" Did you mean [{meant!r}]?" if is_alone else f" Did you mean {meant!r}?"


def _query(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def _decode_name(host: Any, where: str) -> str | None:
    if is_unset(host):
        return host  # type: ignore[no-any-return]
    if not isinstance(host, str):
        raise TypeError(f"{where}: 'host' must be a string, not {type(host).__name__}.")
    if "://" in host:
        raise ValueError(f"{where}: 'host' is a host's name or address, and this is a URI. Its key is 'address'.")
    is_ipv6 = host.count(":") > 1
    if any(character in host for character in "/@[] ") or (":" in host and not is_ipv6):
        raise ValueError(f"{where}: 'host' must be a host's name or address alone; the port has a place of its own.")
    return host


def _decode_port(port: Any, where: str) -> int:
    if isinstance(port, bool) or (isinstance(port, float) and not port.is_integer()):
        raise TypeError(f"{where}: 'port' must be a whole number, not {port!r}.")
    try:
        number = int(port)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{where}: 'port' must be a whole number, not {port!r}.") from None
    if not 0 < number < 65536:
        raise ValueError(f"{where}: {number} is not a port.")
    return number
