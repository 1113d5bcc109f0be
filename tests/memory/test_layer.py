"""What the in-memory layer does by itself: expiry, capacity, copies, names, event loops and fork."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from channels import layers as channels_layers

from channels_redis_fast.consumers.sources import MailboxSource, _source
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.hot import Gate
from channels_redis_fast.memory import ChannelFull, InMemoryChannelLayer
from channels_redis_fast.memory.mailboxes import BATCH, LATE
from channels_redis_fast.messages import memory_limit
from channels_redis_fast.stats import LayerStats
from tests.core.helpers import nothing_to_receive, receive_many, started, until, within
from tests.memory.conftest import SKIPPED


def test_what_is_skipped_is_there() -> None:
    here = Path(__file__).parent
    files = [*here.glob("test_core_*.py"), *here.glob("test_both_*.py")]
    modules = [import_module(f"tests.memory.{file.stem}") for file in files]
    assert {name for name in SKIPPED if not any(hasattr(module, name) for module in modules)} == set()


# A layer of one's own.


async def test_two_layers_have_nothing_in_common() -> None:
    one, other = InMemoryChannelLayer(), InMemoryChannelLayer()
    channel = await one.new_channel()
    assert channel.startswith(f"specific.{one.client_prefix}!")
    assert one.client_prefix != other.client_prefix
    with pytest.raises(AssertionError, match="Wrong client prefix"):
        await other.receive(channel)
    await one.send("general", {"n": 1})
    await nothing_to_receive(other, "general")


def test_settings_need_one_word_changed() -> None:
    """Whatever the core layer takes."""
    options = {
        "hosts": [None],
        "prefix": "site",
        "expiry": "30",
        "group_expiry": 100,
        "capacity": 5,
        "channel_capacity": {"http.*": 7},
        "symmetric_encryption_keys": ["secret"],
        "random_prefix_length": 12,
        "serializer_format": "msgpack",
        "sync_hub": "auto",
        "sync_timeout": 5,
        "max_message_size": 100,
        "restore_groups": True,
        "history": {"*": {"size": 1, "ttl": 1}},
    }
    layer = InMemoryChannelLayer(**options)
    assert (layer.expiry, layer.get_capacity("http.x"), layer.get_capacity("x")) == (30, 7, 5)
    RedisChannelLayer(**{**options, "hosts": []})
    with pytest.raises(TypeError, match="no_such_option"):
        InMemoryChannelLayer(no_such_option=1)
    with pytest.raises(ValueError, match="'expiry'"):
        InMemoryChannelLayer(expiry=0)
    assert isinstance(layer, channels_layers.InMemoryChannelLayer)


# Capacity and expiry.


@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_a_full_channel(kind: str) -> None:
    layer = InMemoryChannelLayer(capacity=2)
    channel = await layer.new_channel() if kind == "specific" else "general"
    other = await layer.new_channel()
    for n in range(2):
        await layer.send(channel, {"n": n})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"n": 2})
    # Each has its own room.
    await layer.send(other, {"n": 0})
    with pytest.raises(ChannelFull, match=channel):
        await layer.send_many([(channel, {"n": 3}), (other, {"n": 1}), (channel, {"n": 4})])
    assert await receive_many(layer, channel, 2) == [{"n": 0}, {"n": 1}]
    assert await receive_many(layer, other, 2) == [{"n": 0}, {"n": 1}]
    assert layer.stats()["channel_full"] == 3
    assert layer.stats()["dropped"] == 0


async def test_what_has_expired_makes_room() -> None:
    layer = InMemoryChannelLayer(capacity=1, expiry=0.05)
    await layer.group_add("room", "general")
    await layer.send("general", {"n": 1})
    with pytest.raises(ChannelFull):
        await layer.send("general", {"n": 2})
    await until_expired(layer)
    assert await layer.channel_depth("general") == 0
    await layer.group_send("room", {"n": 3})
    await until_expired(layer)
    await layer.send("general", {"n": 4})
    assert await within(layer.receive("general")) == {"n": 4}
    assert layer.stats()["expired"] == 2


async def until_expired(layer: InMemoryChannelLayer) -> None:
    deadline = max(deadline for name in layer.channels for deadline, _ in layer._mailboxes.messages(name))
    await until(lambda: time.monotonic() > deadline)


async def test_what_nobody_receives_does_not_stay() -> None:
    """Also where nobody ever receives: a send looks, now and then."""
    layer = InMemoryChannelLayer(expiry=0.01)
    for n in range(100):
        await layer.send(f"invented{n}", {})
    await until_expired(layer)
    layer._mailboxes.due -= LATE
    await layer.send("other", {"text": "x" * BATCH})
    assert list(layer.channels) == ["other"]


async def test_memberships_expire() -> None:
    layer = InMemoryChannelLayer(group_expiry=100)
    for name in ("old", "renewed", "young"):
        await layer.group_add("room", name)
    layer.groups["room"]["old"] = layer.groups["room"]["renewed"] = time.time() - 101
    await layer.group_add("room", "renewed")
    assert await layer.group_channels("room") == ["young", "renewed"]
    assert await layer.group_count("room") == 2
    await layer.group_send("room", {"n": 1})
    assert sorted(layer.channels) == ["renewed", "young"]
    layer.groups["room"] = dict.fromkeys(layer.groups["room"], time.time() - 101)
    assert await layer.group_count("room") == 0
    assert layer.groups == {}


async def test_full_members_of_a_group_are_counted_by_channel(caplog: pytest.LogCaptureFixture) -> None:
    layer = InMemoryChannelLayer(capacity=1)
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    receiving = await started(layer.receive(channels[1]))
    with caplog.at_level("INFO", "channels_redis_fast"):
        await layer.group_send("room", {"n": 1})
        await layer.group_send("room", {"n": 2})
    assert await within(receiving) == {"n": 1}
    assert await within(layer.receive(channels[1])) == {"n": 2}
    said = [record.getMessage() for record in caplog.records if record.name == "channels_redis_fast"]
    assert said == ["2 of 3 channels over capacity in group room"]
    assert layer.stats()["over_capacity"] == 2


async def test_the_memory_of_the_process_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "MAX_BYTES", 1_000_000)
    layer = InMemoryChannelLayer()
    for n in range(3000):
        await layer.send(f"invented{n}", {"text": "x" * 1000})
    assert layer.stats()["dropped"] > 1000
    assert await within(layer.receive("invented2999")) == {"text": "x" * 1000}


# Copies.


async def test_without_serialization_objects_arrive_as_they_are() -> None:
    layer = InMemoryChannelLayer(serialize=False, history={"*": {"size": 5, "ttl": 60}})
    thing = object()
    message = {"thing": thing, "pair": (1, 2), "list": [{"n": 1}]}
    for name in ("one", "two"):
        await layer.group_add("room", name)
    await layer.group_send("room", message)
    await layer.send("one", message)
    first, second, third = [await within(layer.receive(name)) for name in ("one", "two", "one")]
    kept = (await layer.group_history("room")).messages[0]
    for got in (first, second, third, kept):
        assert got["thing"] is thing
        assert got["pair"] == (1, 2)
    first["list"][0]["n"] = 2
    assert [got["list"] for got in (message, second, third, kept)] == [[{"n": 1}]] * 4


async def test_each_receiver_of_a_sites_serializer_owns_its_message() -> None:
    class Tuples(InMemoryChannelLayer):
        """What it makes of a message holds more than dicts and lists."""

        def serialize(self, message: dict[str, Any]) -> bytes:
            return repr(message).encode()

        def deserialize(self, message: bytes) -> dict[str, Any]:
            found: dict[str, Any] = eval(message)
            return found

    layer = Tuples()
    for name in ("one", "two"):
        await layer.group_add("room", name)
    await layer.group_send("room", {"sets": ({1},)})
    one, two = await within(layer.receive("one")), await within(layer.receive("two"))
    one["sets"][0].add(2)
    assert two == {"sets": ({1},)}


async def test_messages_that_are_too_large() -> None:
    layer = InMemoryChannelLayer(max_message_size=100, history={"kept": {"size": 5, "ttl": 60}})
    large = {"text": "x" * 100}
    for call, where in (
        (layer.send("general", large), "channel general"),
        (layer.group_send("room", large), "group room"),
        (layer.group_send("kept", large), "group kept"),
    ):
        with pytest.raises(ValueError, match=rf"^Message for {where} has 10\d bytes, more than 'max_message_size'"):
            await call
    assert (await layer.group_history("kept")).messages == []


# Not for everybody.


async def test_exclude() -> None:
    layer = InMemoryChannelLayer(history={"*": {"size": 5, "ttl": 60}})
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("room", channel)
    start = (await layer.group_history("room")).position
    await layer.group_send("room", {"n": 1}, exclude=[channels[0]])
    await layer.group_send_many([("room", {"n": 2}, channels[:2]), ("room", {"n": 3})])
    await asyncio.to_thread(layer.sync.group_send, "room", {"n": 4}, exclude={channels[2]})
    got = [[message["n"] for message in await all_of(layer, channel)] for channel in channels]
    assert got == [[3, 4], [1, 3, 4], [1, 2, 3]]
    # Who was not to have it does not get it afterwards either.
    history = await layer.group_resume("room", channels[0], start)
    assert ([message["n"] for message in history.messages], history.complete) == ([3, 4], True)
    assert len((await layer.group_history("room", start)).messages) == 4
    for wrong in ("general", b"general", 5):
        with pytest.raises(TypeError, match="exclude must be a list of channel names"):
            await layer.group_send("room", {}, exclude=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="valid"):
        await layer.group_send("room", {}, exclude=["no name"])


async def all_of(layer: InMemoryChannelLayer, channel: str) -> list[dict[str, Any]]:
    return await receive_many(layer, channel, await layer.channel_depth(channel))


# Histories.


async def test_without_a_history() -> None:
    layer = InMemoryChannelLayer()
    for call in (layer.group_resume("room", "x", None), layer.group_history("room"), layer.group_forget("room")):
        with pytest.raises(RuntimeError, match="no option 'history'"):
            await call


@pytest.mark.parametrize("lose", ["forget", "flush", "expiry"])
async def test_a_history_that_is_gone(lose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = InMemoryChannelLayer(history={"*": {"size": 5, "ttl": 60}})
    channel = await layer.new_channel()
    start = await layer.group_resume("room", channel, None)
    assert (start.messages, start.complete) == ([], True)
    for n in range(3):
        await layer.group_send("room", {"n": n})
    received = await receive_many(layer, channel, 3)
    missed = await layer.group_resume("room", channel, received[0]["__position__"])
    assert (missed.messages, missed.complete) == (received[1:], True)
    if lose == "expiry":
        now = time.monotonic() + 61
        monkeypatch.setattr(time, "monotonic", lambda: now)
    else:
        await (layer.flush() if lose == "flush" else layer.group_forget("room"))
    again = await layer.group_resume("room", channel, missed.position)
    assert (again.messages, again.complete) == ([], False)
    await layer.group_send("room", {"n": 4})
    last = await layer.group_resume("room", channel, again.position)
    assert ([message["n"] for message in last.messages], last.complete) == ([4], True)
    assert not (await layer.group_resume("room", channel, start.position)).complete


async def test_histories_of_groups_that_nobody_uses_go(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = InMemoryChannelLayer(history={"*": {"size": 5, "ttl": 60}})
    assert layer._histories is not None
    for n in range(100):
        await layer.group_send(f"room{n}", {"n": n})
    now = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: now)
    await layer.group_send("room", {})
    assert list(layer._histories._histories) == ["room"]


# Event loops, threads, processes.


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_receive_left_in_a_closed_loop_takes_no_message(new_loop: Callable[[], Any]) -> None:
    layer = InMemoryChannelLayer()
    left: list[Any] = []

    async def leave() -> None:
        left.append(await started(layer.receive("general")))

    async def receive() -> Any:
        await layer.send("general", {"n": 1})
        return await within(layer.receive("general"))

    for work in (leave, receive):
        loop = new_loop()
        try:
            result = loop.run_until_complete(work())
        finally:
            loop.close()
    assert result == {"n": 1}


async def test_a_message_whose_receiver_is_collected_goes_back() -> None:
    layer = InMemoryChannelLayer()
    coroutine = layer.receive("general")
    coroutine.send(None)
    await layer.send("general", {"n": 1})
    await layer.send("general", {"n": 2})
    del coroutine
    gc.collect()
    assert await receive_many(layer, "general", 2) == [{"n": 1}, {"n": 2}]


async def test_synchronous_code() -> None:
    layer = InMemoryChannelLayer(history={"*": {"size": 5, "ttl": 60}})
    channel = await layer.new_channel()
    receiving = await started(receive_many(layer, channel, 4))

    def view() -> Any:
        layer.sync.group_add("room", channel)
        layer.sync.send(channel, {"n": 1})
        layer.sync.group_send("room", {"n": 2})
        layer.sync.send_many([(channel, {"n": 3})])
        layer.sync.group_send_many([("room", {"n": 4})])
        return layer.sync.group_history("room")

    history = await asyncio.to_thread(view)
    assert [message["n"] for message in history.messages] == [2, 4]
    assert [message["n"] for message in await receiving] == [1, 2, 3, 4]
    with pytest.raises(RuntimeError, match=r"use await layer\.send"):
        layer.sync.send(channel, {})


def test_synchronous_code_with_methods_that_wait() -> None:
    class Slow(InMemoryChannelLayer):
        async def send(self, channel: str, message: dict[str, Any]) -> None:
            await asyncio.sleep(0.001)
            await super().send(channel, message)

    layer = Slow()
    layer.sync.send("general", {"n": 1})
    assert asyncio.run(layer.receive("general")) == {"n": 1}


def test_nothing_keeps_a_layer(new_loop: Callable[[], Any]) -> None:
    loop = new_loop()
    layer = InMemoryChannelLayer(presence={"grace": 1})
    loop.run_until_complete(layer.send("general", {}))
    channel = loop.run_until_complete(layer.new_channel())
    layer.sync.presence_join("room", channel, 1)
    layer.sync.presence_leave("room", channel)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
    loop.close()


async def test_a_forked_child_begins_anew() -> None:
    layer = InMemoryChannelLayer()
    await layer.group_add("room", "general")
    await layer.send("general", {"n": 1})
    prefix = layer.client_prefix
    # A thread that is not there in the child holds the locks.
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with layer._lock, layer._limits.lock:
            held.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        is_new = layer.client_prefix != prefix and not layer.groups and not layer.channels
        os._exit(0 if is_new else 1)
    free.set()
    thread.join()
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await within(layer.receive("general")) == {"n": 1}


async def test_consumers_read_its_mailboxes_directly() -> None:
    from functools import partial

    layer = InMemoryChannelLayer()
    channel = await layer.new_channel()
    source = _source(Gate(asyncio.get_running_loop()), partial(layer.receive, channel))
    assert isinstance(source, MailboxSource)
    source.start()
    assert source.is_waiting
    await layer.send(channel, {"n": 1})
    assert not source.is_waiting
    assert source.take() == {"n": 1}
    source.start()
    source.cancel()
    await layer.send(channel, {"n": 2})
    assert await within(layer.receive(channel)) == {"n": 2}


# What tests of other projects look at.


async def test_attributes_of_channels_own_layer() -> None:
    layer = InMemoryChannelLayer(capacity=2)
    assert layer.groups == {}
    assert layer.channels == {}
    assert not layer.channels
    await layer.group_add("room", "one")
    assert list(layer.groups["room"]) == ["one"]
    assert len(layer.groups.get("other", [])) == 0
    await layer.send("one", {"n": 1})
    assert "one" in layer.channels
    queue = layer.channels["one"]
    assert (queue.qsize(), queue.empty(), queue.full(), queue.maxsize) == (1, False, False, 2)
    expires, message = queue._queue[0]
    assert message == {"n": 1}
    assert 0 < expires - time.time() <= layer.expiry
    queue.put_nowait((0, {"n": 2}))
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait((0, {"n": 3}))
    assert [queue.get_nowait()[1]["n"] for _ in range(2)] == [1, 2]
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()
    assert layer.channels.get("one") is None
    receiving = await started(layer.receive("two"))
    assert list(layer.channels.keys()) == ["two"]
    await layer.send("two", {"n": 4})
    # Of a receiver that has it already, nothing is left to throw away.
    del layer.channels["two"]
    assert await within(receiving) == {"n": 4}
    await layer.send("three", {"n": 5})
    assert layer.channels.pop("three", None) is not None
    assert layer.channels.pop("three", None) is None
    await layer.send("three", {"n": 6})
    layer.channels = {}
    await layer.group_discard("room", "one")
    assert (layer.groups, len(layer.channels)) == ({}, 0)


# Measurements.


async def test_stats_have_the_names_of_the_other_layers() -> None:
    layer = InMemoryChannelLayer(presence={"lease": 30})
    assert layer.stats().keys() == RedisChannelLayer().stats().keys()
    assert set(layer.stats()) == LayerStats.__required_keys__
    await layer.presence_join("room", await layer.new_channel(), 1)
    await layer.presence_join("room", await layer.new_channel(), 1)
    await layer.send("general", {"n": 1})
    await layer.send("general", {"n": 2})
    await layer.send("other", {"n": 1})
    stats = layer.stats()
    assert (stats["present"], layer.occupancy()) == (2, {"room": 2})
    assert (stats["mailbox_messages"], stats["mailbox_deepest"]) == (3, 2)
    assert stats["mailbox_bytes"] > 0


async def test_lag() -> None:
    """Of what waited for a receiver, and of what was given to one; to several at once, of each that takes it later."""
    layer = InMemoryChannelLayer()
    one, other, third = [await layer.new_channel() for _ in range(3)]
    for channel in (one, other, third):
        await layer.group_add("room", channel)
    receiving = await started(layer.receive(one))
    await layer.send(one, {"n": 1})
    assert await within(receiving) == {"n": 1}
    assert layer.stats()["lag"] == {"count": 1, "p50": 0.0, "p99": 0.0, "max": 0.0}
    await layer.send(one, {"n": 2})
    await asyncio.sleep(0.01)
    await layer.receive(one)
    assert layer.stats()["lag"]["count"] == 2
    assert 0.01 <= (layer.stats()["lag"]["max"] or 0) < 60
    receiving = await started(layer.receive(one))
    await layer.group_send("room", {"n": 3})
    await within(receiving)
    await layer.receive(other)
    await layer.receive(third)
    assert layer.stats()["lag"]["count"] == 5
