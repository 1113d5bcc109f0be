"""
Opens a socket to one host with redis-py, which handles URL, TLS, ACL, Sentinel, AUTH and SELECT.

``Dialer.dial`` lets redis-py connect, checks that the server is the right one and ready, names the connection, and
hands the socket over; from then on it belongs to a ``Link``. This is the only module that knows redis-py's connections.
Knows no commands except those of the handshake.

Rules kept here:

- An unknown or wrong keyword is refused by name when the layer is created.
- A socket that is handed over leads to a server that accepts writes: not to a replica, nor to one that is loading its
  data.
- An outage is logged once when it begins and once when it ends, however many sockets it cost; never with a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
import socket
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

from redis import asyncio as aioredis
from redis import exceptions
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError

from ..options import did_you_mean
from .diagnosis import diagnose
from .hosts import HostOptions, host_label
from .identity import ServerIdentity, field_of, identify
from .resolver import drop, let_go, resolve_apart

logger = logging.getLogger("channels_redis_fast")

Result = TypeVar("Result")

#: Seconds that an answer may take when the host sets no ``socket_timeout``, and seconds that opening may take.
ANSWER_TIMEOUT = 10.0
CONNECT_TIMEOUT = 5.0

#: A socket that is lost within ``SHORT_LIFE`` seconds of being opened is short-lived. The first ``SHORT_LIVES`` of them
#: are logged; while they continue, one every ``REMIND`` seconds is.
SHORT_LIFE, SHORT_LIVES, REMIND = 2.0, 5, 60.0

#: Seconds before the reason why a server drops connections is looked for again.
DIAGNOSE_AGAIN = 10.0

_INFO_SERVER, _INFO_REPLICATION = ("INFO", "server"), ("INFO", "replication")

#: TCP keepalive, unless the host's options differ: after 60 seconds of silence TCP probes the peer every 15 seconds, 3
#: times. The names of the options differ between systems.
KEEPALIVE = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 3}.items()
    if hasattr(socket, name) and not (name == "TCP_KEEPALIVE" and hasattr(socket, "TCP_KEEPIDLE"))
}


class SocketOwner(Protocol):
    """The object that takes a socket over."""

    server: str
    identity: ServerIdentity

    def attach(self, writer: asyncio.StreamWriter) -> None: ...


class PrimaryFollower(Protocol):
    """A connection that has to leave when the primary moves."""

    loop: asyncio.AbstractEventLoop

    def moved(self) -> None: ...


class Dialer:
    """
    One host that can be connected to. ``layer`` appears in the names of its connections on the server.

    ``make_pool`` creates the redis-py pool whose connections are used, for sites that create their own.

    Raises ``ValueError`` at construction, naming ``where``, for options that redis-py rejects.
    """

    def __init__(
        self, host: HostOptions, where: str, layer: str, make_pool: Callable[[], aioredis.ConnectionPool] | None = None
    ) -> None:
        defaults = {"socket_connect_timeout": CONNECT_TIMEOUT, "socket_timeout": ANSWER_TIMEOUT}
        self._options = {**defaults, **host}
        self._make_pool = make_pool or partial(create_pool, self._options)
        self.label = host_label(host)
        try:
            # Not with ``make_pool``: the object that it belongs to is still being created.
            _, connection = _from_pool(create_pool(self._options))
        except (TypeError, ValueError, AttributeError, RedisError) as error:
            raise ValueError(f"Option {where} is not a Redis host: {_refusal(error)}") from error
        # Our default goes in first, so the result is the site's value or ours, not the five seconds of redis-py 8.
        self.answer_timeout = float(connection.socket_timeout or ANSWER_TIMEOUT)
        self._connect_timeout = float(connection.socket_connect_timeout or CONNECT_TIMEOUT)
        driver_info = getattr(connection, "driver_info", None)
        if driver_info is not None:
            # Otherwise redis-py 8 reads its own version from disk for each connection, which takes most of the time of
            # a call from synchronous code.
            self._options["driver_info"] = driver_info
        self._name = f"channels_redis_fast:{layer}"
        #: The name of the Sentinel set, and the last known address of its primary.
        self._set: str | None = host.get("master_name")
        self.primary = ""
        self._followers: weakref.WeakSet[PrimaryFollower] = weakref.WeakSet()
        #: Whether to ask servers for their role: where it may change, or is known to have changed.
        self.asks_role = self._set is not None
        #: Whether connections that send commands ask a server for its process and clock.
        self.asks_identity = False
        #: Whether the server refuses EVALSHA but perhaps not EVAL, and whether it refuses both.
        self.only_script_texts = self.without_scripts = False
        #: The run id of the server process that answered last, if it was asked; when it was certainly running
        #: (monotonic), if a socket was lost since; and how often a different process has answered since somebody took
        #: that number.
        self._run_id = b""
        self._ran_at: float | None = None
        self._restarts = 0
        #: Called in its event loop when a lost connection is back.
        self._reconnected: list[Callable[[], None]] = []
        self._is_out = False
        self._out_since = float("-inf")
        #: When a refusal was last logged, and how many were not logged since then.
        self._refusal_logged = float("-inf")
        self._refusals = 0
        #: Short-lived sockets: when the last one was lost, how many were lost since it was last quiet, how many of
        #: these were not logged, and when one was last logged.
        self._short_lived_at = self._short_lived_logged = float("-inf")
        self._short_lived = self._unlogged = 0
        #: Whether it ever accepted a connection. Until then: why not, as far as can be seen, and when that was
        #: determined.
        self._was_reached = False
        self._diagnosis: str | None = None
        self._diagnosed = float("-inf")

    async def dial(self, link: SocketOwner, role: str) -> None:
        """
        Open a socket with redis-py, including the handshake, and hand it to ``link``.

        ``role`` ends the connection's name on the server.

        Raises ``redis.exceptions.ConnectionError`` naming the host. Its subclasses ``AuthenticationError`` and
        ``BusyLoadingError`` are kept.
        """
        try:
            pool, connection = self._new_connection()
        except Exception as error:
            # From a pool of the site's own.
            raise ConnectionError(self._describe(error)) from error
        resolve_apart(connection)
        try:
            # The limit covers all of it. redis-py's own limit is for the socket, and a server may accept that and then
            # never answer.
            identity = await _within(self._connect_timeout, self._greet(connection, role))
            if connection._reader.at_eof() or connection._writer.is_closing():
                # redis-py's protocol was told that the connection closed; the next protocol would not be told.
                raise ConnectionError("closed by the server")
            if pool.connection_kwargs.get("socket_keepalive") is None:
                _keep_alive(connection._writer.get_extra_info("socket"))
            link.server = self.primary
            link.identity = identity
            link.attach(connection._writer)
            let_go(connection)
        except (exceptions.AuthenticationError, exceptions.BusyLoadingError) as error:
            raise type(error)(self._describe(error)) from error
        except (TimeoutError, asyncio.TimeoutError) as error:
            seen = await self._why(connection, error)
            late = f"no connection within {self._connect_timeout:g} s"
            raise ConnectionError(f"{self.label}: {seen} ({late})" if seen else f"{self.label}: {late}") from error
        except Exception as error:
            # Not only RedisError and OSError: uvloop raises RuntimeError for a socket that closed in the meantime. Some
            # releases of redis-py wrap the error that the server of a unix socket sent.
            is_about_passwords = isinstance(error.__cause__, exceptions.AuthenticationError)
            kind = exceptions.AuthenticationError if is_about_passwords else ConnectionError
            seen = None if is_about_passwords else await self._why(connection, error)
            raise kind(f"{self.label}: {seen} ({_cut(error)})" if seen else self._describe(error)) from error
        finally:
            drop(connection)
            for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
                asked = sentinel.connection_pool
                for other in (*asked._available_connections, *asked._in_use_connections):
                    drop(other)

    def ask_identity(self) -> None:
        """Ask the server for its identity on each new connection for commands or subscriptions."""
        self.asks_identity = True

    def take_restarts(self) -> int:
        """Return how often the server turned out to be another process since the last call."""
        restarts, self._restarts = self._restarts, 0
        return restarts

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Register a function to be called in its event loop when a lost connection is back."""
        self._reconnected.append(callback)

    @property
    def is_out(self) -> bool:
        """Whether a connection was lost and none has been opened since."""
        return self._is_out

    @property
    def out_since(self) -> float | None:
        """When (monotonic) the current outage began; None while there is none."""
        return self._out_since if self._is_out else None

    @property
    def was_reached(self) -> bool:
        """Whether the host ever accepted a connection."""
        return self._was_reached

    def watch(self, follower: PrimaryFollower) -> None:
        """Call a connection's ``moved``, in its event loop, whenever the primary has moved."""
        self._followers.add(follower)

    def lost(self, error: Exception | None, opened_at: float, server: str) -> None:
        """
        Log that a socket was lost, unless that is part of an outage that is already known.

        ``opened_at``: when it was opened (monotonic). ``server``: the server that it led to, for a host that may move.
        """
        now = time.monotonic()
        self._ran_at = opened_at if self._ran_at is None else max(self._ran_at, opened_at)
        # A busy event loop notices late; another loop may have reconnected already.
        is_known = opened_at < self._out_since and now - self._out_since < self.answer_timeout
        if self._is_out or is_known or (now - opened_at < SHORT_LIFE and self._is_one_of_many(now)):
            return
        self._is_out = True
        self._out_since = now
        label = f"{self._set} at {server}" if server else self.label
        more = f" (and {self._unlogged} times since the last such line)" if self._unlogged else ""
        self._unlogged = 0
        logger.warning("Connection to Redis at %s lost: %s%s", label, error or "closed by the server", more)

    def _is_one_of_many(self, now: float) -> bool:
        """Count a short-lived socket; return whether there were so many that this one is not logged."""
        if now - self._short_lived_at >= REMIND:
            self._short_lived = 0
        self._short_lived_at = now
        self._short_lived += 1
        if self._short_lived > SHORT_LIVES and now - self._short_lived_logged < REMIND:
            self._unlogged += 1
            return True
        self._short_lived_logged = now
        return False

    def refuses(self, what: str, error: Exception) -> None:
        """Log that the server refuses something that will be retried: at once, then every ``REMIND`` seconds."""
        now = time.monotonic()
        if now - self._refusal_logged < REMIND:
            self._refusals += 1
            return
        more = f" (and {self._refusals} times since the last such line)" if self._refusals else ""
        self._refusal_logged, self._refusals = now, 0
        logger.error("Redis at %s refuses %s: %s%s", self.label, what, error, more)

    def restored(self) -> None:
        """Called when a lost connection is back. Log that the outage is over, for the first such connection."""
        if self._is_out:
            self._is_out = False
            logger.warning("Connection to Redis at %s restored", self.label)
        for callback in self._reconnected:
            callback()

    def _new_connection(self) -> tuple[aioredis.ConnectionPool, Any]:
        return _from_pool(self._make_pool())

    async def _greet(self, connection: Any, role: str) -> ServerIdentity:
        # redis-py must not set the name: a user that may not name connections could then not connect at all.
        name, connection.client_name = connection.client_name or f"{self._name}:{role}", None
        await connection.connect()
        # In one round trip. A server that is loading its data, or has lost its primary, refuses PING.
        commands: list[tuple[str, ...]] = [("PING",), ("CLIENT", "SETNAME", name)]
        if self.asks_role:
            commands.append(("ROLE",))
        if self.asks_identity and role in ("commands", "subscriber"):
            commands += (_INFO_SERVER, _INFO_REPLICATION, ("TIME",))
        elif self._ran_at is not None:
            commands.append(_INFO_SERVER)
        await connection.send_packed_command(connection.pack_commands(commands))
        replies: dict[tuple[str, ...], Any] = {}
        for command in commands:
            try:
                reply = replies[command] = await connection.read_response()
                self._was_reached = True
            except exceptions.MasterDownError:
                raise
            except ResponseError:
                # An ACL may forbid any of these; everything else still works.
                continue
            if command == ("ROLE",) and reply[0] not in (b"master", "master"):
                raise ConnectionError(f"{connection.host}:{connection.port} is a replica, not a primary")
        if self._set is not None:
            self._found(f"{connection.host}:{connection.port}")
        if _INFO_SERVER in commands:
            self._compare_process(replies.get(_INFO_SERVER))
        return identify(replies.get(_INFO_SERVER), replies.get(_INFO_REPLICATION), replies.get(("TIME",)))

    async def _why(self, connection: Any, error: BaseException) -> str | None:
        """Return what is wrong with a server that was never reached, if that can be determined."""
        if self._was_reached or self._set is not None or not isinstance(getattr(connection, "host", None), str):
            return None
        tls = isinstance(connection, aioredis.SSLConnection)
        nobody = any(isinstance(cause, (ConnectionRefusedError, socket.gaierror)) for cause in _causes(error))
        if nobody:
            return None
        now = time.monotonic()
        if now - self._diagnosed > DIAGNOSE_AGAIN:
            self._diagnosed = now
            self._diagnosis = None
            self._diagnosis = await diagnose(connection.host, int(connection.port), tls)
        return self._diagnosis

    def _compare_process(self, info: Any) -> None:
        """Count a restart if the server that answered INFO is a different process than before."""
        run_id, uptime = field_of(info, b"run_id"), field_of(info, b"uptime_in_seconds")
        before, ran_at = self._run_id, self._ran_at
        self._ran_at = None
        if not run_id:
            # An ACL may forbid it.
            return
        self._run_id = run_id
        if before:
            self._restarts += run_id != before
        elif ran_at is not None and uptime.isdigit():
            # It was not asked before. Uptime has a resolution of one second.
            self._restarts += time.monotonic() - int(uptime) - 1 >= ran_at

    def _all_followers(self) -> list[PrimaryFollower]:
        while True:
            # No lock: a forked child might inherit it locked.
            with contextlib.suppress(RuntimeError):
                return list(self._followers)

    def _found(self, primary: str) -> None:
        before, self.primary = self.primary, primary
        self.label = f"{self._set} at {primary}"
        if before and before != primary:
            logger.warning("Redis primary of %s moved from %s to %s", self._set, before, primary)
            # The old primary may still accept commands for a while, and nobody will see their effects.
            for follower in self._all_followers():
                with contextlib.suppress(RuntimeError):
                    follower.loop.call_soon_threadsafe(follower.moved)

    def _describe(self, error: BaseException) -> str:
        text = str(error) or type(error).__name__
        return text if self.label in text else f"{self.label}: {text}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(error: Exception) -> str:
    """Return why redis-py refuses a host. For an unknown keyword, add the one that was probably meant."""
    unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return str(error)
    kinds = {*aioredis.SSLConnection.__mro__, *aioredis.UnixDomainSocketConnection.__mro__} - {object}
    known = {"ssl"}.union(*(inspect.signature(kind).parameters for kind in kinds)) - {"kwargs"}
    return f"redis-py has no keyword '{unknown[1]}'.{did_you_mean(unknown[1], sorted(known))}"


def _cut(error: BaseException) -> str:
    """Return the first sentence of an error, since servers explain at length."""
    return (str(error) or type(error).__name__).split(". ")[0][:200]


def _keep_alive(sock: Any) -> None:
    """Let TCP probe a silent peer. The probes also keep firewalls from forgetting silent connections."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # A system may have an option and not permit setting it.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def _within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """``asyncio.wait_for``, which before Python 3.12 swallows a cancellation that coincides with the result."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        is_late = not task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            # Retrieved, so that asyncio does not log it.
            task.exception()
    if is_late:
        raise asyncio.TimeoutError
    return task.result()


def _from_pool(pool: aioredis.ConnectionPool) -> tuple[aioredis.ConnectionPool, Any]:
    # RESP2: redis-py 8 would speak RESP3 by default and then enable push messages that nobody here reads.
    pool.connection_kwargs["protocol"] = 2
    return pool, pool.make_connection()  # type: ignore[no-untyped-call]


def open_client(pool: aioredis.ConnectionPool) -> aioredis.Redis:
    """Return a redis-py client on a pool, for the site's own commands."""
    return aioredis.Redis(connection_pool=pool)


def open_cluster_client(servers: Iterable[tuple[str, int]], options: HostOptions) -> aioredis.RedisCluster:
    """
    Return a redis-py client of a cluster, for the site's own commands. It opens nothing.

    ``servers``: some of the cluster's servers; ``options``: the keywords of a connection. Raises ``TypeError`` for a
    keyword that redis-py accepts for connections and not for this client.
    """
    keywords = dict(options)
    kind = keywords.pop("connection_class", aioredis.Connection)
    if issubclass(kind, aioredis.SSLConnection):
        # The client wants the keyword and derives the class from it.
        keywords["ssl"] = True
    return aioredis.RedisCluster(startup_nodes=[ClusterNode(*server) for server in servers], **keywords)


async def close_client(client: aioredis.Redis | aioredis.RedisCluster) -> None:
    """Close a client that was created here, and its pool."""
    if isinstance(client, aioredis.RedisCluster):
        # redis-py 5.0.0 has only the old name.
        await getattr(client, "aclose", client.close)()
    else:
        # The client does not close a pool that was passed in.
        await client.connection_pool.disconnect()


def create_pool(host: HostOptions) -> aioredis.ConnectionPool:
    """
    Create the redis-py connection pool of one decoded host. It opens nothing.

    Raises ``TypeError`` or ``ValueError`` for keywords and values that redis-py refuses.
    """
    options = dict(host)
    if "master_name" in options:
        return _create_sentinel_pool(options)
    if options.pop("ssl", False):
        # The keyword of ``redis.Redis``; a pool wants the class.
        options.setdefault("connection_class", aioredis.SSLConnection)
    if "address" in options:
        return aioredis.ConnectionPool.from_url(options.pop("address"), **options)
    if "path" in options:
        return aioredis.ConnectionPool(connection_class=aioredis.UnixDomainSocketConnection, **options)
    return aioredis.ConnectionPool(**options)


class _Sentinel(aioredis.Redis):
    """A client of one Sentinel. Errors show its address; redis-py before 7 would also show its password."""

    def __repr__(self) -> str:
        options = self.connection_pool.connection_kwargs
        return f"{options['host']}:{options['port']}"


def _made_to_resolve_apart(make: Callable[[], Any]) -> Any:
    connection = make()
    resolve_apart(connection)
    return connection


def _create_sentinel_pool(options: HostOptions) -> aioredis.ConnectionPool:
    sentinels = list(options.pop("sentinels"))
    # A Sentinel that does not answer must leave time to ask the others, so it is not retried either.
    share = (options.get("socket_connect_timeout") or CONNECT_TIMEOUT) / (len(sentinels) + 1)
    given = options.pop("sentinel_kwargs", None) or {}
    patience = {"socket_connect_timeout": share, "socket_timeout": share, "retry": Retry(NoBackoff(), 0)}
    settings = {**patience, **given}
    manager = aioredis.Sentinel([], sentinel_kwargs=settings)  # type: ignore[no-untyped-call]
    manager.sentinels = [_Sentinel(host=address, port=port, **settings) for address, port in sentinels]
    for sentinel in manager.sentinels:
        asked = sentinel.connection_pool
        asked.make_connection = partial(  # type: ignore[method-assign]
            _made_to_resolve_apart, asked.make_connection
        )
    return aioredis.SentinelConnectionPool(  # type: ignore[no-untyped-call]
        options.pop("master_name"), manager, **options
    )
