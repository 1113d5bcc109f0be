"""
Opening a socket to one host, with redis-py: URL, TLS, ACL, Sentinel, AUTH and SELECT are its business.

``Dialer.dial`` has redis-py connect, checks that the server is the one wanted and ready, names the connection, and
hands the socket over; from there on it is a ``Link``'s. This is the one module that knows redis-py's connections. Knows
no command but those of the handshake.

Rules kept here:

- An unknown or wrong keyword is refused when the layer is made, by name.
- A socket that is handed over leads to a server that can write: not to a replica, nor to one that loads its data.
- An outage is logged once when it begins and once when it ends, however many sockets it cost; never with a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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

from .diagnosis import diagnose
from .hosts import HostOptions, host_label
from .identity import ServerIdentity, field_of, identify
from .resolver import release, resolve_apart

logger = logging.getLogger("channels_redis_fast")

Result = TypeVar("Result")

#: Seconds that an answer may take when the host sets no ``socket_timeout``, and that opening may take.
ANSWER_TIMEOUT = 10.0
CONNECT_TIMEOUT = 5.0

#: A socket that is lost within so many seconds of being opened has had a short life. So many of these are logged; then,
#: as long as they go on, one in so many seconds.
SHORT_LIFE, SHORT_LIVES, REMIND = 2.0, 5, 60.0

#: Seconds after which it is looked again why a server drops connections.
DIAGNOSE_AGAIN = 10.0

_INFO_SERVER, _INFO_REPLICATION = ("INFO", "server"), ("INFO", "replication")

#: What a socket does about a peer that has vanished, unless the host's options differ: after 60 seconds of
#: silence TCP asks, every 15 seconds, 3 times. Systems differ in the names they have.
KEEPALIVE = {
    getattr(socket, name): value
    for name, value in {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 3}.items()
    if hasattr(socket, name) and not (name == "TCP_KEEPALIVE" and hasattr(socket, "TCP_KEEPIDLE"))
}


class SocketOwner(Protocol):
    """What takes a socket over."""

    server: str
    identity: ServerIdentity

    def attach(self, writer: asyncio.StreamWriter) -> None: ...


class PrimaryFollower(Protocol):
    """A connection that has to leave when the primary moves."""

    loop: asyncio.AbstractEventLoop

    def moved(self) -> None: ...


class Dialer:
    """
    One host that can be connected to; ``layer`` is how its connections are named there.

    ``make_pool`` makes the redis-py pool whose connections are used, where a site makes its own.

    Raises ``ValueError`` at construction, naming ``where``, for options that redis-py does not take.
    """

    def __init__(
        self, host: HostOptions, where: str, layer: str, make_pool: Callable[[], aioredis.ConnectionPool] | None = None
    ) -> None:
        defaults = {"socket_connect_timeout": CONNECT_TIMEOUT, "socket_timeout": ANSWER_TIMEOUT}
        self._options = {**defaults, **host}
        self._make_pool = make_pool or partial(create_pool, self._options)
        self.label = host_label(host)
        try:
            # Not by ``make_pool``: the object that it belongs to is still being made.
            _, connection = _from_pool(create_pool(self._options))
        except (TypeError, ValueError, AttributeError, RedisError) as error:
            raise ValueError(f"Option {where} is not a Redis host: {error}") from error
        # Our default goes in first, so what comes out is the site's or ours, and not the five seconds of redis-py 8.
        self.answer_timeout = float(connection.socket_timeout or ANSWER_TIMEOUT)
        self._connect_timeout = float(connection.socket_connect_timeout or CONNECT_TIMEOUT)
        driver_info = getattr(connection, "driver_info", None)
        if driver_info is not None:
            # Else redis-py 8 reads its own version from the disk again for each connection, which takes most of the
            # time that a call from synchronous code takes.
            self._options["driver_info"] = driver_info
        self._name = f"channels_redis_fast:{layer}"
        #: The name of the Sentinel set, and where its primary was found last.
        self._set: str | None = host.get("master_name")
        self.primary = ""
        self._followers: weakref.WeakSet[PrimaryFollower] = weakref.WeakSet()
        #: Whether a server's role is asked for: where it may change, or is known to have changed.
        self.asks_role = self._set is not None
        #: Whether a server's process and clock are asked for, by those who send commands.
        self.asks_identity = False
        #: Whether the server refuses EVALSHA, and perhaps not EVAL; whether it refuses both.
        self.only_script_texts = self.without_scripts = False
        #: The server's process that answered last, if it was asked; when it ran for certain (monotonic), if a socket
        #: was lost since; and how often another one has answered since somebody took that number.
        self._run_id = b""
        self._ran_at: float | None = None
        self._restarts = 0
        #: Called when a connection that was lost is there again, in its event loop.
        self._reconnected: list[Callable[[], None]] = []
        self._is_out = False
        self._out_since = float("-inf")
        #: When a refusal was logged last, and how many were not since then.
        self._refusal_logged = float("-inf")
        self._refusals = 0
        #: Losses of sockets that had just been opened: when the last one was, how many there were since it was quiet,
        #: how many of these were not logged, and when one last was.
        self._short_lived_at = self._short_lived_logged = float("-inf")
        self._short_lived = self._unlogged = 0
        #: Whether it ever took a connection. As long as it has not: why not, as far as can be seen, and when that was.
        self._was_reached = False
        self._diagnosis: str | None = None
        self._diagnosed = float("-inf")

    async def dial(self, link: SocketOwner, role: str) -> None:
        """
        Open a socket with redis-py, handshake and all, and hand it to ``link``. ``role`` ends its name on the server.

        Raises ``redis.exceptions.ConnectionError`` (which ``AuthenticationError`` is too, and ``BusyLoadingError``)
        naming the host.
        """
        try:
            pool, connection = self._new_connection()
        except Exception as error:
            # By a pool of the site's own making.
            raise ConnectionError(self._describe(error)) from error
        resolve_apart(connection)
        try:
            # All of it: redis-py's own limit is for the socket, and a server may accept that and then never answer.
            identity = await _within(self._connect_timeout, self._greet(connection, role))
            if connection._reader.at_eof() or connection._writer.is_closing():
                # redis-py's protocol was notified of it, and the next one would not be.
                raise ConnectionError("closed by the server")
            if pool.connection_kwargs.get("socket_keepalive") is None:
                _keep_alive(connection._writer.get_extra_info("socket"))
            link.server = self.primary
            link.identity = identity
            link.attach(connection._writer)
            # From here on the socket is not redis-py's to close, nor to warn about.
            connection._reader = connection._writer = None
        except (exceptions.AuthenticationError, exceptions.BusyLoadingError) as error:
            raise type(error)(self._describe(error)) from error
        except (TimeoutError, asyncio.TimeoutError) as error:
            seen = await self._why(connection, error)
            late = f"no connection within {self._connect_timeout:g} s"
            raise ConnectionError(f"{self.label}: {seen} ({late})" if seen else f"{self.label}: {late}") from error
        except Exception as error:
            # Not only RedisError and OSError: uvloop has RuntimeError for a socket that closed in the meantime.
            # Some releases of redis-py wrap the error of a unix socket's server.
            is_about_passwords = isinstance(error.__cause__, exceptions.AuthenticationError)
            kind = exceptions.AuthenticationError if is_about_passwords else ConnectionError
            seen = None if is_about_passwords else await self._why(connection, error)
            raise kind(f"{self.label}: {seen} ({_cut(error)})" if seen else self._describe(error)) from error
        finally:
            release(connection)
            # Without waiting, since this may be a cancellation.
            connection._close()
            for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
                asked = sentinel.connection_pool
                for other in (*asked._available_connections, *asked._in_use_connections):
                    other._close()

    def ask_identity(self) -> None:
        """Have the server asked who it is, on each new connection for commands or subscriptions."""
        self.asks_identity = True

    def take_restarts(self) -> int:
        """Return how often the server turned out to be another process since this was asked last."""
        restarts, self._restarts = self._restarts, 0
        return restarts

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Have a function called when a connection that was lost is there again, in its event loop."""
        self._reconnected.append(callback)

    @property
    def is_out(self) -> bool:
        """Whether a connection was lost, and none was opened since."""
        return self._is_out

    def watch(self, follower: PrimaryFollower) -> None:
        """Have a connection's ``moved`` called, in its event loop, when the primary has moved."""
        self._followers.add(follower)

    def lost(self, error: Exception | None, opened_at: float, server: str) -> None:
        """
        Log that a socket was lost, unless that belongs to an outage that is known already.

        ``opened_at``: when it was opened, on the monotonic clock. ``server``: where it led, of a host that may move.
        """
        now = time.monotonic()
        self._ran_at = opened_at if self._ran_at is None else max(self._ran_at, opened_at)
        # An event loop that was busy notices late, when another may be back already.
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
        """Count a socket that had a short life; return whether so many have that this one is not logged."""
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
        """Log that the server refuses something that is asked again soon: at once, then every ``REMIND`` seconds."""
        now = time.monotonic()
        if now - self._refusal_logged < REMIND:
            self._refusals += 1
            return
        more = f" (and {self._refusals} times since the last such line)" if self._refusals else ""
        self._refusal_logged, self._refusals = now, 0
        logger.error("Redis at %s refuses %s: %s%s", self.label, what, error, more)

    def restored(self) -> None:
        """Called when a connection that was lost is there again. Log that the outage is over, at the first of them."""
        if self._is_out:
            self._is_out = False
            logger.warning("Connection to Redis at %s restored", self.label)
        for callback in self._reconnected:
            callback()

    def _new_connection(self) -> tuple[aioredis.ConnectionPool, Any]:
        return _from_pool(self._make_pool())

    async def _greet(self, connection: Any, role: str) -> ServerIdentity:
        # Not by redis-py, to which a user that may not name its connections is a user that cannot connect.
        name, connection.client_name = connection.client_name or f"{self._name}:{role}", None
        await connection.connect()
        # In one round trip. PING is what a server that loads its data, or has lost its primary, refuses.
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
                # An ACL may forbid each of these, and everything else still works.
                continue
            if command == ("ROLE",) and reply[0] not in (b"master", "master"):
                raise ConnectionError(f"{connection.host}:{connection.port} is a replica, not a primary")
        if self._set is not None:
            self._found(f"{connection.host}:{connection.port}")
        if _INFO_SERVER in commands:
            self._compare_process(replies.get(_INFO_SERVER))
        return identify(replies.get(_INFO_SERVER), replies.get(_INFO_REPLICATION), replies.get(("TIME",)))

    async def _why(self, connection: Any, error: BaseException) -> str | None:
        """Return what is wrong with a server that was never reached, if that can be seen."""
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
        """Count a restart if the server that has answered INFO is another process than before."""
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
            # It was not asked before. Uptime is in whole seconds.
            self._restarts += time.monotonic() - int(uptime) - 1 >= ran_at

    def _all_followers(self) -> list[PrimaryFollower]:
        while True:
            # No lock: a forked child might find it taken.
            with contextlib.suppress(RuntimeError):
                return list(self._followers)

    def _found(self, primary: str) -> None:
        before, self.primary = self.primary, primary
        self.label = f"{self._set} at {primary}"
        if before and before != primary:
            logger.warning("Redis primary of %s moved from %s to %s", self._set, before, primary)
            # The old one may take commands for a while yet, which nobody will see.
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


def _cut(error: BaseException) -> str:
    """Return the first sentence of an error, as servers explain at length."""
    return (str(error) or type(error).__name__).split(". ")[0][:200]


def _keep_alive(sock: Any) -> None:
    """Have TCP ask a silent peer whether it is there. A firewall that forgets silent connections sees that, too."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # A system may know an option and not permit setting it.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def _within(seconds: float, work: Coroutine[Any, Any, Result]) -> Result:
    """``asyncio.wait_for``, which before Python 3.12 swallows a cancellation that comes together with the result."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        is_late = not task.done()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            # Retrieved, so that asyncio does not complain.
            task.exception()
    if is_late:
        raise asyncio.TimeoutError
    return task.result()


def _from_pool(pool: aioredis.ConnectionPool) -> tuple[aioredis.ConnectionPool, Any]:
    # RESP2, since redis-py 8 speaks RESP3 on its own and then turns on pushes that nobody here reads.
    pool.connection_kwargs["protocol"] = 2
    return pool, pool.make_connection()  # type: ignore[no-untyped-call]


def open_client(pool: aioredis.ConnectionPool) -> aioredis.Redis:
    """Return a redis-py client on a pool, for commands that are a site's own."""
    return aioredis.Redis(connection_pool=pool)


def open_cluster_client(servers: Iterable[tuple[str, int]], options: HostOptions) -> aioredis.RedisCluster:
    """
    Return a redis-py client of a cluster, for commands that are a site's own; nothing is opened.

    ``servers``: some of the cluster's; ``options``: the keywords of a connection. Raises ``TypeError`` for a keyword
    that redis-py has for connections and not for this client.
    """
    keywords = dict(options)
    kind = keywords.pop("connection_class", aioredis.Connection)
    if issubclass(kind, aioredis.SSLConnection):
        # The client wants the keyword, and makes the class of it.
        keywords["ssl"] = True
    return aioredis.RedisCluster(startup_nodes=[ClusterNode(*server) for server in servers], **keywords)


async def close_client(client: aioredis.Redis | aioredis.RedisCluster) -> None:
    """Close a client that was opened here, and its pool."""
    if isinstance(client, aioredis.RedisCluster):
        # redis-py 5.0.0 has only the old name.
        await getattr(client, "aclose", client.close)()
    else:
        # A given pool is the giver's to close, as far as the client knows.
        await client.connection_pool.disconnect()


def create_pool(host: HostOptions) -> aioredis.ConnectionPool:
    """
    Make the redis-py connection pool of one decoded host; nothing is opened.

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
    """A client of one Sentinel. Errors call it by its address; redis-py before 7 would show its password as well."""

    def __repr__(self) -> str:
        options = self.connection_pool.connection_kwargs
        return f"{options['host']}:{options['port']}"


def _made_to_resolve_apart(make: Callable[[], Any]) -> Any:
    connection = make()
    resolve_apart(connection)
    return connection


def _create_sentinel_pool(options: HostOptions) -> aioredis.ConnectionPool:
    sentinels = list(options.pop("sentinels"))
    # A sentinel that does not answer leaves time to ask the others, so it is not asked twice either.
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
