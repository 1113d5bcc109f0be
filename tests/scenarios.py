"""What channels_redis 4.3 gets wrong and this layer gets right: one scenario for each core row of DESIGN section 4.

A scenario takes an `Environment` and raises AssertionError where the behaviour is wrong. `test_scenarios.py` runs it
here against our layer, and in a subprocess against upstream's, where it has to fail in the way it declares:

    python -m tests.scenarios NAME --url URL --second-url URL --prefix PREFIX

So this module imports nothing that upstream's venv does not have, and knows both layers only by their public API.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import inspect
import itertools
import logging
import multiprocessing
import os
import random
import re
import signal
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgpack
import redis

UPSTREAM = "channels_redis.core.RedisChannelLayer"

#: Seconds in which something has to happen that takes milliseconds where it happens at all.
PATIENCE = float(os.environ.get("SCENARIO_PATIENCE", "60"))


class Environment:
    """Two servers, a key prefix that nobody else has, and a layer class; closes whatever was made through it."""

    def __init__(
        self,
        layer_class: Any,
        url: str,
        second_url: str,
        prefix: str,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self.url, self.second_url, self.prefix, self.new_loop = url, second_url, prefix, new_loop
        self.both = [url, second_url]
        self.is_ours = layer_class.__module__.startswith("channels_redis_fast.")
        self._layer_class = layer_class
        self._layers: list[Any] = []
        self._clients = contextlib.ExitStack()

    def make_layer(self, **config: Any) -> Any:
        layer = self._layer_class(**{"hosts": [self.url], "prefix": self.prefix, **config})
        self._layers.append(layer)
        return layer

    def client(self, url: str | None = None) -> Any:
        return self._clients.enter_context(redis.Redis.from_url(url or self.url))

    def named(self, url: str) -> dict[str, str]:
        """A host whose connections `connections` can tell from everybody else's on that server."""
        return {"address": url, "client_name": self.prefix}

    def connections(self, client: Any, flag: str = "") -> set[str]:
        """The ids of the connections made through `named`; with flag "b" those of them that wait for a message."""
        return {
            entry["id"]
            for entry in client.client_list()
            if entry["name"] == self.prefix and (not flag or flag in entry["flags"])
        }

    async def close(self) -> None:
        self._clients.close()
        for layer in self._layers:
            await layer.close_pools()


@dataclass(frozen=True)
class Scenario:
    run: Callable[[Environment], Any]
    #: What is found in upstream's failure: without it, any mistake in a scenario would look like upstream's.
    upstream: str

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.run)


SCENARIOS: dict[str, Scenario] = {}


def scenario(upstream: str) -> Callable[[Callable[[Environment], Any]], Callable[[Environment], Any]]:
    def register(run: Callable[[Environment], Any]) -> Callable[[Environment], Any]:
        SCENARIOS[run.__name__] = Scenario(run, upstream)
        return run

    return register


# Waiting, always with an end.


async def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


async def settled(finished: Callable[[], bool], progress: Callable[[], int]) -> None:
    """Return when all is finished, or nothing has moved for long; the caller looks which."""
    last, deadline = progress(), time.monotonic() + PATIENCE
    while not finished() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
        if progress() != last:
            last, deadline = progress(), time.monotonic() + PATIENCE


async def result(task: asyncio.Future[Any], what: str) -> Any:
    """The outcome of a task, which has to be a good one and to come soon."""
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.done(), f"{what}: nothing came"
    assert task.exception() is None, f"{what}: {task.exception()!r}"
    return task.result()


async def receive(layer: Any, channel: str, what: str) -> Any:
    task = asyncio.ensure_future(layer.receive(channel))
    try:
        return await result(task, what)
    finally:
        task.cancel()


def without_local_part(channel: str) -> str:
    return channel[: channel.find("!") + 1 or None]


def key_of(env: Environment, channel: str) -> str:
    return env.prefix + without_local_part(channel)


async def channel_on(layer: Any, shard: int) -> str:
    """A specific channel whose key belongs on that shard: one of few kinds is."""
    for number in itertools.count():
        channel: str = await layer.new_channel(f"kind{number}")
        if layer.consistent_hash(without_local_part(channel)) == shard:
            return channel
    raise AssertionError("unreachable")


# Connections.


@scenario(upstream="idle consumer died: .*Timeout")
async def idle_consumers_live_on(env: Environment) -> None:
    """A read timeout shorter than the time that a wait lasts in Redis is no reason for a consumer to die."""
    layer = env.make_layer(hosts=[{"address": env.url, "socket_timeout": 0.5}])
    channels = [await layer.new_channel(), "jobs"]
    consumers = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
    # Not a pause for something to finish: idling longer than the read timeout is what is tested.
    await asyncio.wait(consumers, timeout=1.5, return_when=asyncio.FIRST_COMPLETED)
    for consumer in consumers:
        assert not consumer.done(), f"an idle consumer died: {consumer.exception()!r}"
    for channel, consumer in zip(channels, consumers, strict=True):
        await layer.send(channel, {"to": channel})
        assert await result(consumer, "after idling") == {"to": channel}


@scenario(upstream=r"\d+ connections to one server|[Tt]oo many connections")
async def few_connections(env: Environment) -> None:
    """200 waiting consumers and 200 sends at once need two connections for each server."""
    layer = env.make_layer(hosts=[env.named(url) for url in env.both], capacity=1000)
    channels = [await layer.new_channel() for _ in range(100)] + [f"jobs{number}" for number in range(100)]
    consumers = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
    servers = [env.client(url) for url in env.both]
    await until(lambda: all(env.connections(server, "b") for server in servers), "nobody waits")
    await asyncio.gather(*(layer.send(channel, {"to": channel}) for channel in channels))
    for server in servers:
        # Pools keep what they have opened, so the peak can be counted afterwards.
        assert len(env.connections(server)) <= 2, f"{len(env.connections(server))} connections to one server"
    for channel, consumer in zip(channels, consumers, strict=True):
        assert await result(consumer, channel) == {"to": channel}


@scenario(upstream=r"\d+ connections for 20 calls")
def synchronous_calls_share_a_connection(env: Environment) -> None:
    """Each call has an event loop of its own, as with async_to_sync; not each needs a connection of its own."""
    layer, server = env.make_layer(), env.client()

    def opened() -> int:
        return int(server.info("stats")["total_connections_received"])

    asyncio.run(layer.group_send("room", {}))
    before = opened()
    for number in range(20):
        asyncio.run(layer.group_send("room", {"n": number}))
    assert opened() - before <= 1, f"{opened() - before} connections for 20 calls"
    asyncio.run(layer.close_pools())


# Two servers.


@scenario(upstream=r"\d+ of 20 messages lost")
async def specific_channels_on_two_servers(env: Environment) -> None:
    """Messages are sent to the shard on which the channel's key is awaited."""
    sender = env.make_layer(hosts=env.both)
    consumers = {}
    for shard in (0, 1):
        layer = env.make_layer(hosts=env.both)
        first = await channel_on(layer, shard)
        kind = first[: first.index(".")]
        for channel in [first] + [await layer.new_channel(kind) for _ in range(9)]:
            consumers[channel] = asyncio.ensure_future(layer.receive(channel))
    for channel in consumers:
        await sender.send(channel, {"to": channel})
    await asyncio.wait(consumers.values(), timeout=PATIENCE)
    lost = sum(not consumer.done() for consumer in consumers.values())
    assert not lost, f"{lost} of 20 messages lost"
    assert all(consumer.result() == {"to": channel} for channel, consumer in consumers.items())


@scenario(upstream="on server 1: nothing came")
async def general_channel_on_two_servers(env: Environment) -> None:
    """One receive gets its message from whichever server has it."""
    layer = env.make_layer(hosts=env.both)
    senders = [env.make_layer(hosts=[url]) for url in env.both]
    # Neither in turns nor only on one: no rotation of the receiver's may fit by chance.
    for shard in (1, 1, 0, 0, 0, 1):
        waiting = asyncio.ensure_future(layer.receive("jobs"))
        await senders[shard].send("jobs", {"on": shard})
        assert await result(waiting, f"on server {shard}") == {"on": shard}


# Jobs of several workers.


async def share_jobs(env: Environment, hosts: list[str]) -> None:
    jobs = 2000
    sender = env.make_layer(hosts=hosts, capacity=2 * jobs)
    seen: Counter[int] = Counter()

    async def work(layer: Any) -> None:
        while (job := (await layer.receive("jobs"))["job"]) is not None:
            seen[job] += 1

    workers = [asyncio.ensure_future(work(env.make_layer(hosts=hosts))) for _ in range(4)]
    for start in range(0, jobs, 20):
        await asyncio.gather(*(sender.send("jobs", {"job": job}) for job in range(start, start + 20)))
    await settled(lambda: len(seen) == jobs, lambda: sum(seen.values()))
    doubled = sum(seen.values()) - len(seen)
    assert (len(seen), doubled) == (jobs, 0), f"{jobs - len(seen)} jobs lost, {doubled} doubled"
    # All are here. One that comes again would come before a worker's last job, or lie in Redis afterwards.
    for _ in workers:
        await sender.send("jobs", {"job": None})
    for worker in workers:
        await result(worker, "the last job")
    assert sum(seen.values()) == jobs, "a job came again"
    assert not [key for url in hosts for key in env.client(url).scan_iter(f"{env.prefix}jobs*")], "jobs are left over"


@scenario(upstream=r"\d+ jobs lost, \d+ doubled")
async def jobs_of_workers_on_one_server(env: Environment) -> None:
    """Each job goes to one worker, once."""
    await share_jobs(env, [env.url])


@scenario(upstream=r"\d+ jobs lost, \d+ doubled")
async def jobs_of_workers_on_two_servers(env: Environment) -> None:
    """Each job goes to one worker, once, whichever server it is on."""
    await share_jobs(env, env.both)


# Receives that are cancelled.


async def cancel_receives(layer: Any, channels: list[str]) -> None:
    """1500 messages, received by tasks that are cancelled at random moments about when their message comes."""
    count = 1500 // len(channels)
    got: dict[str, list[int]] = {channel: [] for channel in channels}

    async def send(channel: str, moments: random.Random) -> None:
        for number in range(count):
            await layer.send(channel, {"number": number})
            await asyncio.sleep(moments.uniform(0, 0.001))
        # Without a limit of its own: whether anything still moves is watched below.
        await until(lambda: len(set(got[channel])) == count, "messages lost", float("inf"))
        await layer.send(channel, {"number": count})

    async def consume(channel: str, moments: random.Random) -> None:
        # The end is sent when all others were received: had one of them been doubled, it would come before.
        while count not in got[channel]:
            receiving = asyncio.ensure_future(layer.receive(channel))
            if moments.random() < 0.5:
                for _ in range(moments.randrange(10)):
                    await asyncio.sleep(0)
            else:
                await asyncio.wait([receiving], timeout=moments.uniform(0, 0.003))
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                got[channel].append((await receiving)["number"])

    tasks = [
        asyncio.ensure_future(part(channel, random.Random(f"{part.__name__} {position}")))
        for position, channel in enumerate(channels)
        for part in (send, consume)
    ]
    await settled(lambda: all(task.done() for task in tasks), lambda: sum(map(len, got.values())))
    expected = list(range(count + 1))
    lost = sum(len(set(expected) - set(numbers)) for numbers in got.values())
    doubled = sum(len(numbers) - len(set(numbers)) for numbers in got.values())
    misplaced = sum(a > b for numbers in got.values() for a, b in itertools.pairwise(numbers))
    assert (lost, doubled, misplaced) == (0, 0, 0), f"of 1500 {lost} lost, {doubled} doubled, {misplaced} out of order"
    for task in tasks:
        await result(task, "a sender or consumer")


@scenario(upstream=r"of 1500 \d+ lost, \d+ doubled, \d+ out of order")
async def cancelled_receives_on_specific_channels(env: Environment) -> None:
    """A receive cancelled as its message comes loses nothing, doubles nothing and keeps the order."""
    layer = env.make_layer(capacity=10_000)
    await cancel_receives(layer, [await layer.new_channel() for _ in range(3)])


@scenario(upstream=r"of 1500 \d+ lost, \d+ doubled, \d+ out of order")
async def cancelled_receives_on_general_channels(env: Environment) -> None:
    """The same where messages belong to whoever asks first."""
    await cancel_receives(env.make_layer(capacity=10_000), ["jobs0", "jobs1", "jobs2"])


@scenario(upstream=r"\d+ objects are left")
async def cancelled_receives_leave_nothing(env: Environment) -> None:
    """2000 receives on as many channels, all cancelled, leave no queues or locks behind."""
    layer = env.make_layer()
    await layer.send("warm", {"up": True})
    await receive(layer, "warm", "warming up")

    async def cancel(channel: str) -> None:
        receiving = asyncio.ensure_future(layer.receive(channel))
        for _ in range(10):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    # What is made once is made before the count.
    await cancel(await layer.new_channel())
    await cancel("cold")
    before = objects()
    for number in range(1000):
        await cancel(await layer.new_channel())
        await cancel(f"jobs{number}")
    deadline = time.monotonic() + PATIENCE
    while (left := objects() - before) > 500:
        assert time.monotonic() < deadline, f"{left} objects are left of 2000 cancelled receives"
        await asyncio.sleep(0.1)


# Who gets what.


@scenario(upstream="the second kind of channel: nothing came")
async def second_kind_of_channel_is_served(env: Environment) -> None:
    """A waiting receive on `new_channel("first")` does not hold up one on `new_channel("second")`."""
    layer = env.make_layer()
    first, second = await layer.new_channel("first"), await layer.new_channel("second")
    waiting = asyncio.ensure_future(layer.receive(first))
    late = asyncio.ensure_future(layer.receive(second))
    await layer.send(second, {"to": "second"})
    assert await result(late, "the second kind of channel") == {"to": "second"}
    await layer.send(first, {"to": "first"})
    assert await result(waiting, "the first kind of channel") == {"to": "first"}


@scenario(upstream="members share one message")
async def group_members_own_their_message(env: Environment) -> None:
    """What one member of a group does to its message, flat or nested, no other member sees."""
    layer = env.make_layer()
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    for sent in ({"text": "flat"}, {"text": "nested", "users": [{"name": "ada"}]}):
        await layer.group_send("room", sent)
        for channel in channels:
            message = await receive(layer, channel, "a group message")
            assert message == sent, "members share one message"
            message["text"] = "mine"
            for user in message.get("users", ()):
                user["name"] = "me"


@contextlib.contextmanager
def log_of(name: str) -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger(name).removeHandler(handler)


async def skip_garbage(env: Environment, layer: Any, channel: str) -> None:
    garbage = [
        b"x",  # shorter than the random prefix
        b"p" * 12 + b"\xc1",  # no msgpack
        b"q" * 12 + msgpack.packb({"text": "cut off"})[:-1],
        b"r" * 12 + msgpack.packb(["not", "a", "dict"]),
        b"s" * 12 + msgpack.packb({"text": "to nobody", "__asgi_channel__": 1}),
    ]
    key, client = key_of(env, channel), env.client()
    with log_of("channels_redis_fast") as lines:
        await layer.send(channel, {"text": "before"})
        ((_, score),) = client.zrange(key, 0, -1, withscores=True)
        client.zadd(key, dict.fromkeys(garbage, score))
        await layer.send(channel, {"text": "after"})
        for text in ("before", "after"):
            assert await receive(layer, channel, f"{text} the garbage") == {"text": text}
    if env.is_ours:
        assert layer.stats()["undecodable"] == len(garbage)
        assert sum(key in line for line in lines) == len(garbage), f"the log does not name {key}: {lines}"


@scenario(upstream="(before|after) the garbage: .*(msgpack|Unpack|ExtraData|Error)")
async def garbage_on_a_specific_channel_is_skipped(env: Environment) -> None:
    """Payloads that nobody can decode kill no consumer; they are logged with their key and counted."""
    layer = env.make_layer()
    await skip_garbage(env, layer, await layer.new_channel())


@scenario(upstream="(before|after) the garbage: .*(msgpack|Unpack|ExtraData|Error)")
async def garbage_on_a_general_channel_is_skipped(env: Environment) -> None:
    """The same where the next receive may be another process'."""
    await skip_garbage(env, env.make_layer(), "jobs")


@scenario(upstream=r"1 of 10 equal messages")
async def reseeding_random_overwrites_nothing(env: Environment) -> None:
    """Equal messages stay distinct, whatever a site does to the global random."""
    layer, client = env.make_layer(), env.client()
    # Of two kinds: where a receive has been, messages may leave Redis before they are counted.
    channel, member = await layer.new_channel(), await layer.new_channel("member")
    await layer.group_add("room", member)
    state = random.getstate()
    try:
        for send, target, receiver in (
            (layer.send, "jobs", "jobs"),
            (layer.send, channel, channel),
            (layer.group_send, "room", member),
        ):
            for _ in range(10):
                random.seed(1)
                await send(target, {"text": "again"})
            stored = client.zcard(key_of(env, receiver))
            assert stored == 10, f"{stored} of 10 equal messages are there"
            for _ in range(10):
                assert await receive(layer, receiver, "an equal message") == {"text": "again"}
    finally:
        random.setstate(state)


@scenario(upstream="the expired message is still there")
async def group_send_trims_where_the_channel_is(env: Environment) -> None:
    """An expired message makes room for a group's, also where group and channel are on different servers."""
    layer = env.make_layer(hosts=env.both, capacity=1)
    for shard, url in enumerate(env.both):
        channel, client = await channel_on(layer, shard), env.client(url)
        group = next(name for name in map("room{}".format, itertools.count()) if layer.consistent_hash(name) != shard)
        key = key_of(env, channel)
        client.zadd(key, {"expired": client.time()[0] - layer.expiry - 10})
        await layer.group_add(group, channel)
        await layer.group_send(group, {"to": group})
        assert b"expired" not in client.zrange(key, 0, -1), "the expired message is still there"
        assert await receive(layer, channel, "the group's message") == {"to": group}


@scenario(upstream="messages for a consumer that has gone are still in memory")
async def messages_of_gone_consumers_expire(env: Environment) -> None:
    """What is sent to a channel that nobody receives on any more leaves memory when it expires."""
    layer = env.make_layer(expiry=3)
    gone, here = await layer.new_channel(), await layer.new_channel()
    await layer.send(gone, {"text": "last words"})
    await receive(layer, gone, "before the consumer goes")
    marker = f"for nobody {env.prefix}"
    for _ in range(10):
        # The list makes the garbage collector track the message, so that it can be found.
        await layer.send(gone, {marker: ["a list"]})
    key, client = key_of(env, gone), env.client()
    for _ in range(10):
        # A receive on a neighbour takes the messages out of Redis, all of them or one by one.
        await layer.send(here, {"to": "here"})
        assert await receive(layer, here, "to the neighbour") == {"to": "here"}
    await until(lambda: not client.exists(key), "the messages stay in Redis")

    def in_memory() -> int:
        return sum(type(found) is dict and marker in found for found in gc.get_objects())

    await until(lambda: not in_memory(), "messages for a consumer that has gone are still in memory", 3 + PATIENCE)


# Processes.


@scenario(upstream="the child shares the parent's client_prefix")
def forked_child_is_a_process_of_its_own(env: Environment) -> None:
    """A child has channels of its own, and its parent does not notice it."""
    loop = env.new_loop()
    run = loop.run_until_complete
    layer, client = env.make_layer(hosts=[env.named(env.url)]), env.client()
    channel = run(layer.new_channel())
    consumer = loop.create_task(layer.receive(channel))
    mine, childs = multiprocessing.Pipe()
    pid = 0
    try:
        run(layer.send("jobs", {"text": "for anybody"}))
        run(until(lambda: env.connections(client, "b"), "the consumer does not wait"))
        connections = env.connections(client)
        pid = fork(lambda: serve_in_child(env, layer, childs))
        childs.close()
        client_prefix, childs_channel = reported(mine)
        assert client_prefix != layer.client_prefix, "the child shares the parent's client_prefix"
        run(layer.send(childs_channel, {"to": "the child"}))
        assert reported(mine) == {"to": "the child"}
        assert reported(mine) == {"text": "for anybody"}
        # The child's alarm bounds this wait.
        status, pid = os.waitpid(pid, 0)[1], 0
        assert status == 0, f"the child ended with {status}"
        assert not consumer.done(), "the parent's consumer was disturbed"
        run(layer.send(channel, {"to": "the parent"}))
        assert run(result(consumer, "to the parent")) == {"to": "the parent"}
        assert env.connections(client) == connections, "the parent lost its connections"
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        mine.close()
        consumer.cancel()
        run(asyncio.wait([consumer]))
        run(env.close())
        loop.close()


def fork(child: Callable[[], None]) -> int:
    """Run `child` in a forked process, which ends with it, within two minutes, and runs nothing of its caller's."""
    with warnings.catch_warnings():
        # Newer Pythons warn where threads run, as other tests' may; the child touches none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(120)
        child()
        os._exit(0)
    finally:
        os._exit(1)


def serve_in_child(env: Environment, layer: Any, pipe: Any) -> None:
    loop = env.new_loop()

    async def serve() -> None:
        channel = await layer.new_channel()
        receiving = asyncio.ensure_future(layer.receive(channel))
        pipe.send((layer.client_prefix, channel))
        pipe.send(await receiving)
        pipe.send(await layer.receive("jobs"))

    loop.run_until_complete(serve())
    loop.close()
    # What the child inherited and nobody refers to must not say goodbye in the parent's name.
    gc.collect()


def reported(pipe: Any) -> Any:
    assert pipe.poll(PATIENCE), "the child says nothing"
    return pipe.recv()


# What servers allow.


@scenario(upstream="keys|user executing the script can.t run this command")
async def flush_works_without_keys_command(env: Environment) -> None:
    """KEYS stops a server for as long as it takes, and many users are not allowed it."""
    admin, user = env.client(env.second_url), env.prefix
    admin.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all", "-keys")
    try:
        address = urlsplit(env.second_url)
        layer = env.make_layer(hosts=[f"redis://{user}:secret@{address.hostname}:{address.port}"])
        await layer.send("jobs", {"text": "to be removed"})
        await layer.group_add("room", "jobs")
        await layer.flush()
        assert not list(admin.scan_iter(f"{env.prefix}*")), "flush left something"
        await layer.close_pools()
    finally:
        admin.execute_command("ACL", "DELUSER", user)


@scenario(upstream="flush removed the neighbour")
async def flush_leaves_other_prefixes_alone(env: Environment) -> None:
    """A prefix is text, also where it looks like a pattern."""
    client = env.client()
    for number, (wild, neighbour) in enumerate((("*", "b"), ("?", "b"), ("[ab]", "b"), ("[^a]", "b"), ("\\*", "*"))):
        stem = f"{env.prefix}{number}"
        layer = env.make_layer(prefix=stem + wild)
        client.set(f"{stem}{neighbour}jobs", "stays")
        await layer.send("jobs", {"text": "to be removed"})
        await layer.group_add("room", "jobs")
        await layer.flush()
        left = {key.decode() for key in client.scan_iter(f"{stem}*")}
        assert f"{stem}{neighbour}jobs" in left, f"flush removed the neighbour of prefix {wild}"
        assert left == {f"{stem}{neighbour}jobs"}, f"flush left {left} behind of prefix {wild}"


@contextlib.contextmanager
def monitored(url: str, client: Any) -> Iterator[list[tuple[str, list[str]]]]:
    """After the block, all commands that the server ran during it: who asked, and the command's words."""
    commands: list[tuple[str, list[str]]] = []
    address = urlsplit(url)
    with (
        socket.create_connection((address.hostname, address.port), PATIENCE) as monitor,
        monitor.makefile("rb") as lines,
    ):
        # redis-py's own monitor takes a script's text apart at its spaces.
        monitor.sendall(b"MONITOR\r\n")
        assert lines.readline() == b"+OK\r\n"
        yield commands
        end = os.urandom(8).hex()
        client.echo(end)
        for line in lines:
            source, _, words = line.decode().partition("] ")
            commands.append((source.split()[-1], re.findall(r'"((?:[^"\\]|\\.)*)"', words)))
            if end in commands[-1][1]:
                break


@scenario(upstream="scripts without declared keys|keys that no script declared")
async def scripts_declare_their_keys(env: Environment) -> None:
    """Serverless offers, clusters and Dragonfly refuse scripts that touch what they did not declare."""
    layer = env.make_layer(hosts=[env.second_url])
    channel = await layer.new_channel()
    with monitored(env.second_url, env.client(env.second_url)) as commands:
        await layer.group_add("room", channel)
        for target, send in (("jobs", layer.send), (channel, layer.send), ("room", layer.group_send)):
            await send(target, {"text": "hello"})
            receiver = "jobs" if target == "jobs" else channel
            assert await receive(layer, receiver, target) == {"text": "hello"}
        await layer.flush()
    # A script's own commands come from "lua"; all of them name their one key first.
    touched = {words[1] for source, words in commands if source == "lua" and len(words) > 1}
    scripts = [words for source, words in commands if source != "lua" and words[0].upper() in ("EVAL", "EVALSHA")]
    assert touched, "no script was seen"
    undeclared = [words for words in scripts if words[2] == "0"]
    assert not undeclared, f"{len(undeclared)} scripts without declared keys"
    declared = {key for words in scripts for key in words[3 : 3 + int(words[2])]}
    assert touched <= declared, f"keys that no script declared: {touched - declared}"


def main(scenarios: dict[str, Scenario] = SCENARIOS, upstream: str = UPSTREAM) -> None:
    parser = argparse.ArgumentParser(description="Run one scenario; exit code 1 and a line on stdout where it fails.")
    parser.add_argument("name", choices=scenarios)
    parser.add_argument("--url", required=True)
    parser.add_argument("--second-url", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--layer", default=upstream)
    options = parser.parse_args()
    module, _, name = options.layer.rpartition(".")
    layer_class = getattr(importlib.import_module(module), name)
    env = Environment(layer_class, options.url, options.second_url, options.prefix)
    chosen = scenarios[options.name]

    def report(error: Exception | None) -> None:
        if error is not None:
            print(f"failed: {type(error).__name__}: {error}", flush=True)
        # From within the loop, since what a broken layer has left running there may never end.
        os._exit(error is not None)

    async def perform() -> None:
        try:
            await chosen.run(env)
        except Exception as error:
            report(error)

    try:
        if chosen.is_async:
            asyncio.run(perform())
        else:
            chosen.run(env)
    except Exception as error:
        report(error)
    report(None)


if __name__ == "__main__":
    main()
