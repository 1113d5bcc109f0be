"""What an operator sees: names of connections, one log record for each event, and counters that say what happened."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis
from channels.exceptions import ChannelFull

from bench.server import Server
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.core.helpers import LIMIT, clients, end, nothing_to_receive, receive_many, started, until, within
from tests.pubsub.helpers import subscribers

Make = Callable[..., Any]
NewLoop = Callable[[], asyncio.AbstractEventLoop]
OwnServer = Callable[..., Server]

CORE = ["channels_redis_fast:core:commands", "channels_redis_fast:core:receiver"]
PUBSUB = ["channels_redis_fast:pubsub:commands", "channels_redis_fast:pubsub:subscriber"]


async def use(layer: Any) -> asyncio.Future[Any]:
    """Let a layer open all its sockets, and keep them by a receive that waits."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    assert await within(layer.receive(channel)) == {"n": 1}
    return await started(layer.receive(channel))


def names(server: Server) -> list[str]:
    """What all connections are called that say so; this one does not."""
    with redis.Redis.from_url(server.url) as raw:
        return sorted(client["name"] for client in raw.client_list() if client["name"])


# Names.


async def test_every_connection_says_what_it_is(make_core: Make, make_pubsub: Make, own_server: OwnServer) -> None:
    servers = [own_server(), own_server()]
    hosts = [server.url for server in servers]
    waits = [await use(make(hosts=hosts)) for make in (make_core, make_pubsub)]
    # What belongs to one shard alone need not have come to the other: general channels do.
    for make, layer_names in ((make_core, CORE), (make_pubsub, PUBSUB)):
        layer = make(hosts=hosts)
        await asyncio.gather(*(layer.send(f"c{n}", {}) for n in range(20)))
        assert layer_names[0] in names(servers[0])
    for server in servers:
        await until(lambda server=server: set(names(server)) >= {*CORE, PUBSUB[0]})  # type: ignore[misc]
        # Nobody is nameless, and nobody is called something else.
        with redis.Redis.from_url(server.url) as raw:
            own = raw.client_id()
            assert {client["name"] for client in raw.client_list() if int(client["id"]) != own} <= {*CORE, *PUBSUB}
    assert sum(names(server).count(PUBSUB[1]) for server in servers) >= 1
    with redis.Redis.from_url(servers[0].url) as raw:
        for client in raw.client_list():
            if client["name"] == CORE[1]:
                assert "b" in client["flags"]
            if client["name"] == PUBSUB[1]:
                assert int(client["sub"])
            if client["name"] in (CORE[0], PUBSUB[0]):
                assert "b" not in client["flags"]
                assert not int(client["sub"])
    await end(*waits)


@pytest.mark.parametrize("form", ["dict", "dict with address", "url"])
@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_the_name_that_is_configured(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, kind: str, form: str
) -> None:
    server = own_server()
    hosts: dict[str, Any] = {
        "dict": {"host": "127.0.0.1", "port": server.port, "client_name": "mine"},
        "dict with address": {"address": server.url, "client_name": "mine"},
        "url": f"{server.url}?client_name=mine",
    }
    layer = (make_core if kind == "core" else make_pubsub)(hosts=[hosts[form]])
    wait = await use(layer)
    assert names(server) == ["mine"] * 2
    with redis.Redis.from_url(server.url) as raw:
        for client in clients(raw, "mine"):
            raw.client_kill_filter(_id=client["id"])
        # Whoever comes back is called the same.
        await until(lambda: any("b" in c["flags"] or int(c["sub"]) for c in clients(raw, "mine")))
    assert set(names(server)) == {"mine"}
    await end(wait)


# The log.


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "channels_redis_fast"]


class Busy(threading.Thread):
    """An event loop in a thread of its own, in which both layers send and receive without end."""

    def __init__(self, new_loop: NewLoop, layers: list[Any]) -> None:
        super().__init__()
        self._new_loop = new_loop
        self._layers = layers
        self._done = threading.Event()
        #: By layer, the messages received.
        self.received = [0 for _ in layers]
        self.error: BaseException | None = None

    def run(self) -> None:
        loop = self._new_loop()
        try:
            loop.run_until_complete(self._work())
        except BaseException as error:
            self.error = error
        finally:
            loop.close()

    def end(self) -> None:
        self._done.set()
        self.join(LIMIT)
        assert not self.is_alive()

    async def _work(self) -> None:
        tasks = []
        for number, layer in enumerate(self._layers):
            channel = await layer.new_channel()
            tasks += [asyncio.ensure_future(work) for work in (self._send(layer, channel), self._get(number, channel))]
        stopped = asyncio.ensure_future(asyncio.to_thread(self._done.wait))
        await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        self._done.set()
        await asyncio.wait([stopped, *tasks])
        for task in failed:
            task.result()

    async def _get(self, number: int, channel: str) -> None:
        while True:
            await self._layers[number].receive(channel)
            self.received[number] += 1

    async def _send(self, layer: Any, channel: str) -> None:
        while True:
            try:
                await layer.send(channel, {"type": "busy"})
            except redis.exceptions.ConnectionError:
                pass  # It was on its way when the server died.
            except ChannelFull:
                pass
            await asyncio.sleep(0.002)


@pytest.fixture
def busy(new_loop: NewLoop) -> Iterator[Callable[[list[Any]], Busy]]:
    threads: list[Busy] = []

    def start(layers: list[Any]) -> Busy:
        thread = Busy(new_loop, layers)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.end()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """`until`, for a test without an event loop."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(
    own_server: OwnServer, prefix: str, busy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the number of event loops, sockets, senders and receivers; each layer for itself, without passwords."""
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all\nuser chan on >s3cret ~* &* +@all\n")
    server = own_server("--aclfile", str(users))
    url = f"redis://chan:s3cret@127.0.0.1:{server.port}"
    layers = [RedisChannelLayer(hosts=[url], prefix=prefix), RedisPubSubChannelLayer(hosts=[url], prefix=prefix)]
    threads = [busy(layers) for _ in range(3)]
    place = f"127.0.0.1:{server.port}"
    for _ in range(2):
        caplog.clear()
        seen = [list(thread.received) for thread in threads]
        wait_for(
            lambda seen=seen: all(  # type: ignore[misc]
                now > then
                for thread, before in zip(threads, seen, strict=True)
                for now, then in zip(thread.received, before, strict=True)
            ),
            "messages in every loop, on both layers",
        )
        assert not lines(caplog)
        server.kill()
        # Every socket of every loop has gone, before there is a way back.
        wait_for(lambda: all(not layer.stats()["connections_open"] for layer in layers), "the loss is noticed")
        told = lines(caplog)
        assert len(told) == len(layers), told
        assert all(line.startswith(f"Connection to Redis at {place} lost: ") for line in told)
        before = [list(thread.received) for thread in threads]
        server.restart()
        wait_for(
            lambda before=before: all(  # type: ignore[misc]
                now > then
                for thread, old in zip(threads, before, strict=True)
                for now, then in zip(thread.received, old, strict=True)
            ),
            "messages in every loop again, on both layers",
        )
        told = lines(caplog)[len(layers) :]
        assert told == [f"Connection to Redis at {place} restored"] * len(layers)
        assert {record.levelno for record in caplog.records if record.name == "channels_redis_fast"} == {
            logging.WARNING
        }
        assert "s3cret" not in caplog.text
    for thread in threads:
        thread.end()
        assert thread.error is None


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_each_shard_has_its_own_outage(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    servers = [own_server(), own_server()]
    layer = (make_core if kind == "core" else make_pubsub)(hosts=[server.url for server in servers])
    channels = [await layer.new_channel() for _ in range(20)]
    waits = [await started(layer.receive(channel)) for channel in channels]
    await asyncio.gather(*(layer.send(f"c{n}", {}) for n in range(20)))
    await until(lambda: layer.stats()["connections_open"] == 4)
    for server in servers:
        caplog.clear()
        await asyncio.to_thread(server.restart)
        await until(lambda: layer.stats()["connections_open"] >= 3)
        await until(lambda: any("restored" in line for line in lines(caplog)))
        # The command connection comes back when it is needed.
        await within(asyncio.gather(*(layer.send(f"c{n}", {}) for n in range(20)), return_exceptions=True))
        await until(lambda: layer.stats()["connections_open"] == 4)
        lost, restored = lines(caplog)
        assert f"127.0.0.1:{server.port} lost: " in lost
        assert f"127.0.0.1:{server.port} restored" in restored
    await end(*waits)


async def test_a_server_that_was_never_there_is_no_event(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller hears it; the log is for connections that there were."""
    server = own_server()
    server.kill()
    for make in (make_core, make_pubsub):
        with pytest.raises(redis.exceptions.ConnectionError):
            await within(make(hosts=[server.url]).send("c", {}))
    assert not lines(caplog)


async def test_closing_is_no_event(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    for make in (make_core, make_pubsub):
        layer = make(hosts=[server.url])
        wait = await use(layer)
        await within(layer.close_pools())
        await end(wait)
        await within(layer.flush())
        assert layer.stats()["reconnects"] == 0
    assert not lines(caplog)


# Counters.

COUNTERS = {
    "batches",
    "bytes_received",
    "bytes_sent",
    "channel_full",
    "commands_in_flight",
    "connections_open",
    "deliveries",
    "dropped",
    "expired",
    "group_sends",
    "incomplete",
    "over_capacity",
    "present",
    "put_back",
    "receives",
    "reconnects",
    "recorded",
    "recovered",
    "sends",
    "server_restarts",
    "undecodable",
}
MAILBOXES = {"mailbox_bytes", "mailbox_deepest", "mailbox_messages"}
MEASURED = {"batch_messages", "lag", "loop_stalls", "round_trips"}


class Counted:
    """What has changed in a layer's counters since the last look; bytes are a matter of their own."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._before = layer.stats()

    def changes(self) -> dict[str, int]:
        now = self._layer.stats()
        counted = [name for name in COUNTERS if not name.startswith("bytes")]
        changed = {name: now[name] - self._before[name] for name in counted}
        return {name: change for name, change in changed.items() if change}

    def look(self) -> dict[str, int]:
        changes, self._before = self.changes(), self._layer.stats()
        return changes


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_all_counters_are_there_and_zero(make_core: Make, make_pubsub: Make, kind: str) -> None:
    stats = (make_core if kind == "core" else make_pubsub)().stats()
    assert set(stats) == COUNTERS | MAILBOXES | MEASURED
    assert [stats[name] for name in COUNTERS | MAILBOXES] == [0] * len(COUNTERS | MAILBOXES)
    assert all(type(stats[name]) is int for name in COUNTERS | MAILBOXES)
    nothing = {"count": 0, "p50": None, "p99": None, "max": None}
    assert {name: stats[name] for name in MEASURED} == {**dict.fromkeys(MEASURED, nothing), "round_trips": {}}


async def test_what_the_core_layer_counts(
    make_core: Make, raw: redis.Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each event changes its own counters and no other, by as much as has happened."""
    layer, other = make_core(capacity=3), make_core(capacity=3)
    sender, receiver = Counted(layer), Counted(other)
    channel = await other.new_channel()
    # One send, one batch, one socket.
    await layer.send("jobs", {"n": 1})
    assert sender.look() == {"sends": 1, "batches": 1, "connections_open": 1}
    # Four sends of one tick after one that had no company: the first goes alone, the others are one batch. Two are
    # refused.
    results = await asyncio.gather(*(layer.send("jobs", {}) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, ChannelFull) for result in results) == 2
    assert sender.look() == {"sends": 4, "batches": 2, "channel_full": 2}
    # Received by another process: a socket that waits there, and three messages handed over and taken.
    await receive_many(other, "jobs", 3)
    assert receiver.look() == {"deliveries": 3, "receives": 3, "connections_open": 1}
    assert sender.look() == {}
    # Groups: two members in that process' mailboxes, one of them full for a group message, as its key is.
    names = [await other.new_channel() for _ in range(2)]
    for name in (*names, "full"):
        await layer.group_add("room", name)
    for n in range(3):
        raw.zadd(f"{prefix}full", {b"%012d" % n + msgpack.packb({"n": n}): time.time()})
    assert sender.look() == {}
    waits = [await started(other.receive(name)) for name in names]
    await layer.group_send("room", {"n": 2})
    assert [await within(wait) for wait in waits] == [{"n": 2}] * 2
    assert sender.look() == {"group_sends": 1, "over_capacity": 1}
    changes = receiver.look()
    # Whether the command connection was needed to wake the wait is a matter of timing.
    changes.pop("connections_open", None)
    assert changes == {"deliveries": 2, "receives": 2}
    # What nobody can read.
    raw.zadd(f"{prefix}jobs", {b"rubbish": time.time()})
    await layer.send("jobs", {})
    await within(other.receive("jobs"))
    assert sender.look() == {"sends": 1, "batches": 1}
    changes = receiver.look()
    changes.pop("connections_open", None)
    assert changes == {"deliveries": 1, "receives": 1, "undecodable": 1}
    # A mailbox of three for a consumer that is busy: of five, two give way.
    wait = await started(other.receive(names[0]))
    for n in range(5):
        await layer.send(channel, {"n": n})
        await until(lambda n=n: receiver.changes().get("deliveries") == n + 1)  # type: ignore[misc]
    assert sender.look() == {"sends": 5, "batches": 5}
    assert receiver.look() == {"deliveries": 5, "dropped": 2}
    assert await receive_many(other, channel, 3) == [{"n": n} for n in (2, 3, 4)]
    assert receiver.look() == {"receives": 3}
    await end(wait)


async def test_the_core_layer_counts_what_expires_and_what_goes_back(make_core: Make, raw: redis.Redis) -> None:
    layer, sender = make_core(expiry=1), make_core()
    channel, other = await layer.new_channel(), await layer.new_channel()
    counted = Counted(layer)
    wait = await started(layer.receive(other))
    for n in range(2):
        await sender.send(channel, {"n": n})
    await until(lambda: counted.changes().get("deliveries") == 2)
    await until(lambda: counted.changes().get("expired") == 2)
    changes = counted.look()
    assert {name: changes.get(name) for name in ("deliveries", "expired", "receives", "dropped")} == {
        "deliveries": 2,
        "expired": 2,
        "receives": None,
        "dropped": None,
    }
    await end(wait)
    # A general message whose receiver is cancelled in the moment in which it comes goes back to Redis.
    for _ in range(50):
        await sender.send("jobs", {"n": 1})
        receiving = await started(layer.receive("jobs"))
        delivered = counted.changes().get("deliveries", 0)
        # Nothing but the loop itself can say when the message has come and its receiver has not run yet.
        while counted.changes().get("deliveries", 0) == delivered and not receiving.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        if counted.changes().get("put_back"):
            break
        counted.look()
    else:
        pytest.fail("no receive was cancelled in the moment in which its message came")
    assert counted.changes()["put_back"] == 1
    assert "receives" not in counted.changes()
    assert await within(layer.receive("jobs")) == {"n": 1}


async def test_what_the_pubsub_layer_counts(
    make_pubsub: Make, raw: redis.Redis, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    layer, other = make_pubsub(), make_pubsub(capacity=3)
    sender, receiver = Counted(layer), Counted(other)
    names = [await other.new_channel() for _ in range(3)]
    assert receiver.look() == {"connections_open": 1}
    await layer.send(names[0], {"n": 1})
    assert sender.look() == {"sends": 1, "batches": 1, "connections_open": 1}
    await within(other.receive(names[0]))
    assert receiver.look() == {"deliveries": 1, "receives": 1}
    # Three sends of one tick after one that had no company: the first goes alone, the others are one batch.
    await asyncio.gather(*(layer.send(names[0], {}) for _ in range(3)))
    assert sender.look() == {"sends": 3, "batches": 2}
    await receive_many(other, names[0], 3)
    assert receiver.look() == {"deliveries": 3, "receives": 3}
    # One group message, three members.
    for name in names:
        await other.group_add("room", name)
    await layer.group_send("room", {"n": 2})
    assert [await within(other.receive(name)) for name in names] == [{"n": 2}] * 3
    assert sender.look() == {"group_sends": 1, "batches": 1}
    assert receiver.look() == {"deliveries": 3, "receives": 3}
    # What nobody can read.
    raw.publish(names[0], b"\xc1")
    await until(lambda: receiver.changes() == {"undecodable": 1})
    receiver.look()
    # Five for a consumer that is busy: two give way.
    for n in range(5):
        await layer.send(names[0], {"n": n})
    await until(lambda: receiver.changes().get("deliveries") == 5)
    assert receiver.look() == {"deliveries": 5, "dropped": 2}
    assert sender.look() == {"sends": 5, "batches": 5}
    assert await receive_many(other, names[0], 3) == [{"n": n} for n in (2, 3, 4)]
    assert receiver.look() == {"receives": 3}
    # To nobody: sent all the same.
    await layer.send(f"{prefix}nobody", {})
    assert sender.look() == {"sends": 1, "batches": 1}
    assert receiver.look() == {}
    # And what expires, in a layer that has an expiry.
    expiring = make_pubsub(expiry=1)
    counted = Counted(expiring)
    channel = await expiring.new_channel()
    for n in range(3):
        await layer.send(channel, {"n": n})
    await until(lambda: counted.changes().get("expired") == 3)
    assert counted.changes() == {"connections_open": 1, "deliveries": 3, "expired": 3}


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_reconnects_and_gauges(make_core: Make, make_pubsub: Make, own_server: OwnServer, kind: str) -> None:
    """Sockets and unanswered commands are numbers of this moment; sockets that came back are counted."""
    server = own_server()
    layer = (make_core if kind == "core" else make_pubsub)(hosts=[server.url])
    if kind == "pubsub":
        layer.grace = 0.01
    channel = await layer.new_channel()
    wait = await started(layer.receive(channel))
    await layer.send("elsewhere", {})
    await until(lambda: layer.stats()["connections_open"] == 2)
    with redis.Redis.from_url(server.url) as raw:
        if kind == "core":
            await until(lambda: any("b" in client["flags"] for client in raw.client_list()))
        assert layer.stats()["commands_in_flight"] == 0, "a wait is not a command that somebody waits for"
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            sends = []
            for n in range(1, 6):
                sends.append(await started(layer.send("elsewhere", {})))
                await until(lambda n=n: layer.stats()["commands_in_flight"] == n)  # type: ignore[misc]
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await within(asyncio.gather(*sends))
        assert layer.stats()["commands_in_flight"] == 0
        # Each of the two is lost and comes back, once: the commands' when it is needed.
        for n in range(1, 4):
            mine = [client["id"] for client in raw.client_list() if client["name"]]
            assert len(mine) == 2
            for number in mine:
                raw.client_kill_filter(_id=number)
            await until(lambda n=n: layer.stats()["reconnects"] >= 2 * n - 1)  # type: ignore[misc]
            while True:
                try:
                    await within(layer.send("elsewhere", {}))
                    break
                except redis.exceptions.ConnectionError:
                    continue  # it was written into the dying socket, and says so
            await until(lambda n=n: layer.stats()["reconnects"] == 2 * n)  # type: ignore[misc]
            assert layer.stats()["connections_open"] == 2
        if kind == "pubsub":
            await until(lambda: subscribers(raw, channel) == 1)
        await nothing_to_receive_by(layer, wait, channel)
        assert layer.stats()["reconnects"] == 6
        if kind == "pubsub":
            # Where channels live, sockets are opened again at once.
            await end(await started(layer.receive(channel)))
            await until(lambda: subscribers(raw, channel) == 0)
        await within(layer.close_pools())
        stats = layer.stats()
        assert (stats["connections_open"], stats["commands_in_flight"]) == (0, 0)
        await until(lambda: not [client for client in raw.client_list() if client["name"]])
    assert stats["reconnects"] == 6


async def nothing_to_receive_by(layer: Any, receiving: asyncio.Future[Any], channel: str) -> None:
    await within(layer.send(channel, {"type": "last"}))
    assert await within(receiving) == {"type": "last"}


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_gauges_when_an_outage_takes_everything(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, kind: str
) -> None:
    server = own_server()
    layer = (make_core if kind == "core" else make_pubsub)(hosts=[server.url])
    wait = await use(layer)
    assert layer.stats()["connections_open"] == 2
    server.kill()
    await until(lambda: layer.stats()["connections_open"] == 0)
    sending = await started(layer.send("elsewhere", {}))
    assert layer.stats()["commands_in_flight"] == 0, "what was not written is not in flight"
    server.restart()
    await within(sending)
    await until(lambda: layer.stats()["connections_open"] == 2)
    await end(wait)


class Wire:
    """What a server says it has read and written, but for what was said to ask it."""

    def __init__(self, raw: redis.Redis) -> None:
        self._raw = raw
        self._asked = b"*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n"
        self._questions = self._answers = 0
        self._raw.set_response_callback("INFO", lambda reply, **options: reply)
        self._base = (0, 0)
        self._base = self.seen()

    def seen(self) -> tuple[int, int]:
        """Bytes that the server has read and written since the first look."""
        reply: bytes = self._raw.execute_command("INFO", "stats")
        fields = dict(line.split(b":", 1) for line in reply.split(b"\r\n") if b":" in line)
        # This question has been read, and its answer has not been written yet.
        self._questions += len(self._asked)
        read = int(fields[b"total_net_input_bytes"]) - self._questions - self._base[0]
        written = int(fields[b"total_net_output_bytes"]) - self._answers - self._base[1]
        self._answers += len(reply) + len(b"$%d\r\n\r\n" % len(reply))
        return read, written


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_bytes_are_those_that_the_server_counts(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, kind: str
) -> None:
    server = own_server()
    layer = (make_core if kind == "core" else make_pubsub)(hosts=[server.url], capacity=1000)
    channel = await layer.new_channel()
    await nothing_to_receive(layer, channel)
    await layer.group_add("room", channel)
    receiving = await started(receive_many(layer, channel, 60))

    def sent() -> tuple[int, int]:
        stats = layer.stats()
        return stats["bytes_sent"], stats["bytes_received"]

    with redis.Redis.from_url(server.url, single_connection_client=True, protocol=2) as raw:
        # Quiet, and all handshakes over, which are redis-py's: from here on every byte is the layer's.
        await until(lambda: layer.stats()["connections_open"] == 2)
        if kind == "core":
            await until(lambda: any("b" in client["flags"] for client in raw.client_list()))
        wire = Wire(raw)
        start = sent()
        await asyncio.gather(*(layer.send(channel, {"n": n, "text": "x" * n * 50}) for n in range(50)))
        for n in range(10):
            await layer.group_send("room", {"n": n, "text": "y" * 3000})
        assert len(await within(receiving)) == 60

        def agreed() -> bool:
            mine = sent()
            return wire.seen() == (mine[0] - start[0], mine[1] - start[1])

        await until(agreed)
    assert sent()[0] - start[0] > 50 * 25 * 50
    assert sent()[1] - start[1] > 50 * 25 * 50
