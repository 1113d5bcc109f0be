"""What tests of sites are given: a layer of their own, what was sent, when it is handled, and consumers that end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import InMemoryChannelLayer as ChannelsLayer
from channels.layers import channel_layers, get_channel_layer
from django.test import SimpleTestCase, override_settings

from channels_redis_fast.consumers import AsyncJsonWebsocketConsumer as DirectConsumer
from channels_redis_fast.memory import InMemoryChannelLayer
from channels_redis_fast.testing import (
    assert_group_sent,
    assert_sent,
    capture,
    communicator,
    memory_layer,
    settled,
)
from tests.core.helpers import LIMIT, within

HELLO = {"type": "chat.message", "text": "hello"}


# A layer of its own.


@pytest.mark.parametrize("number", [1, 2])
async def test_each_test_has_a_layer_of_its_own(channel_layer: InMemoryChannelLayer, number: int) -> None:
    assert get_channel_layer() is channel_layer
    assert (channel_layer.groups, len(channel_layer.channels)) == ({}, 0)
    await channel_layer.group_add("room", "general")
    await channel_layer.send("general", {"n": number})


def test_synchronous_tests_too(channel_layer: InMemoryChannelLayer) -> None:
    async_to_sync(get_channel_layer().send)("general", HELLO)
    assert async_to_sync(channel_layer.receive)("general") == HELLO


class TestOptions:
    @pytest.fixture
    def channel_layer_options(self) -> dict[str, Any]:
        return {"capacity": 3}

    def test_options(self, channel_layer: InMemoryChannelLayer) -> None:
        assert channel_layer.capacity == 3


def test_options_are_those_of_the_settings() -> None:
    config = {"hosts": ["redis://nowhere"], "capacity": 7, "history": {"*": {"size": 5, "ttl": 5}}, "of": "a subclass"}
    for backend in ("channels_redis_fast.core.RedisChannelLayer", "channels_redis.core.RedisChannelLayer"):
        with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend, "CONFIG": config}}):
            with memory_layer(capacity=8) as layer:
                assert get_channel_layer() is layer
                assert (layer.capacity, layer._histories is not None) == (8, True)
            with memory_layer() as layer:
                assert layer.capacity == 7
    other = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}, "more": {"BACKEND": "other.Layer"}}
    with override_settings(CHANNEL_LAYERS=other):
        before = get_channel_layer()
        with pytest.raises(ZeroDivisionError), memory_layer("more") as layer:  # noqa: PT012
            assert get_channel_layer("more") is layer
            1 / 0  # noqa: B018
        assert "more" not in channel_layers.backends
        with memory_layer():
            assert get_channel_layer() is not before
        assert get_channel_layer() is before


class DjangosTestCase(SimpleTestCase):
    """unittest's tests, as pytest, pytest-django and manage.py run them."""

    def setUp(self) -> None:
        context = memory_layer()
        self.layer = context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)

    async def test_async(self) -> None:
        assert get_channel_layer() is self.layer
        with assert_group_sent(self.layer, "room", HELLO):
            await self.layer.group_send("room", HELLO)

    def test_sync(self) -> None:
        with assert_group_sent(self.layer, "room", HELLO):
            self.layer.sync.group_send("room", HELLO)


@pytest.mark.usefixtures("channel_layer")
class TestCaseWithTheFixture(SimpleTestCase):
    def test_it(self) -> None:
        assert isinstance(get_channel_layer(), InMemoryChannelLayer)


# What was sent.


async def test_capture(channel_layer: InMemoryChannelLayer) -> None:
    message = {"type": "x", "list": [1]}
    with capture(channel_layer) as everything, capture(channel_layer, group="room") as room:
        async with capture(channel_layer, channel="general") as general:
            await channel_layer.group_send("room", message)
            message["list"] = [2]
            await channel_layer.send("general", message)
            await channel_layer.send_many([("other", {"n": 1}), ("general", {"n": 2})])
            await channel_layer.group_send_many([("room", {"n": 3})])
            await asyncio.to_thread(channel_layer.sync.group_send, "room", {"n": 4})
            with pytest.raises(TypeError):
                await channel_layer.send("general", {"cannot": object()})
    await channel_layer.group_send("room", {"n": 5})
    assert room == [{"type": "x", "list": [1]}, {"n": 3}, {"n": 4}]
    assert general == [{"type": "x", "list": [2]}, {"n": 2}]
    assert len(everything) == 6
    assert channel_layer._watchers == []


async def test_presence_is_captured(channel_layer: InMemoryChannelLayer) -> None:
    with memory_layer(presence={"grace": 0}) as layer, capture(layer, group="room") as sent:
        await layer.presence_join("room", await layer.new_channel(), "ann")
    assert [message["type"] for message in sent] == ["presence.join"]


async def test_expectations(channel_layer: InMemoryChannelLayer) -> None:
    async with assert_group_sent(channel_layer, "room", type="chat.message") as sent:
        await channel_layer.group_send("room", HELLO)
    assert sent == [HELLO]
    with (
        assert_sent(channel_layer, "general", HELLO, times=2),
        assert_sent(channel_layer, "general", text="x", times=0),
    ):
        await channel_layer.send_many([("general", HELLO), ("general", HELLO)])
    with pytest.raises(AssertionError) as raised, assert_group_sent(channel_layer, "room", {"text": "bye"}):  # noqa: PT012
        await channel_layer.group_send("room", HELLO)
        await channel_layer.group_send("other", {"n": 1})
        await channel_layer.send("general", {"n": 2})
    assert str(raised.value).splitlines() == [
        "Group 'room' was to be sent a message with {'text': 'bye'}; 0 of 1 were:",
        "  {'type': 'chat.message', 'text': 'hello'}",
        "  group 'other': {'n': 1}",
        "  channel 'general': {'n': 2}",
    ]
    with pytest.raises(AssertionError, match="and nothing was sent to anyone"), assert_sent(channel_layer, "general"):
        pass
    # The error of the test itself is what counts.
    with pytest.raises(ZeroDivisionError), assert_group_sent(channel_layer, "room"):
        1 / 0  # noqa: B018
    with pytest.raises(TypeError, match="not both"):
        capture(channel_layer, group="room", channel="general")
    with pytest.raises(TypeError, match="cannot be watched"):
        capture(ChannelsLayer())
    assert channel_layer._watchers == []


# When it has been handled.


def chat_of(base: Any, work: Any) -> Any:
    """A consumer that does something slow with what it hears, and passes it on to another group."""

    class Chat(base):  # type: ignore[misc]
        groups = ("room",)

        async def receive_json(self, content: Any, **others: Any) -> None:
            await self.channel_layer.group_send("room", {"type": "chat.message", "text": content})

        async def chat_message(self, event: dict[str, Any]) -> None:
            await work()
            await self.channel_layer.group_send("done", {"text": event["text"]})

    return Chat.as_asgi()


async def in_a_thread() -> None:
    slow = threading.Event()
    await database_sync_to_async(slow.wait)(0.02)


async def asleep() -> None:
    await asyncio.sleep(0.02)


async def at_once() -> None:
    pass


@pytest.mark.parametrize("work", [in_a_thread, asleep, at_once], ids=lambda work: work.__name__)
@pytest.mark.parametrize("base", [AsyncJsonWebsocketConsumer, DirectConsumer], ids=["channels", "direct"])
async def test_settled(channel_layer: InMemoryChannelLayer, base: Any, work: Any) -> None:
    application = chat_of(base, work)
    async with communicator(application) as one, communicator(application):
        with capture(channel_layer, group="done") as done:
            await one.send_json_to("a")
            await settled(channel_layer)
            assert done == [{"text": "a"}] * 2
            await channel_layer.group_send("room", HELLO)
            await channel_layer.group_send("room", HELLO)
            await settled(channel_layer)
            assert done == [{"text": "a"}] * 2 + [{"text": "hello"}] * 4


async def test_a_synchronous_consumer(channel_layer: InMemoryChannelLayer) -> None:
    class Chat(JsonWebsocketConsumer):  # type: ignore[misc]
        groups = ("room",)

        def chat_message(self, event: dict[str, Any]) -> None:
            async_to_sync(self.channel_layer.group_send)("done", {"text": event["text"]})

    async with communicator(Chat.as_asgi(), scope={"user": "ann"}) as client:
        assert client.scope["user"] == "ann"
        with assert_group_sent(channel_layer, "done", text="hello"):
            await channel_layer.group_send("room", HELLO)
            await settled(channel_layer)


async def test_what_nobody_receives_is_not_waited_for(channel_layer: InMemoryChannelLayer) -> None:
    await channel_layer.send("nobody", {})
    receiving = asyncio.ensure_future(channel_layer.receive("one"))
    await channel_layer.send("one", HELLO)
    await settled(channel_layer)
    assert receiving.result() == HELLO


async def test_a_receiver_in_another_thread(channel_layer: InMemoryChannelLayer) -> None:
    got: list[Any] = []
    ready = threading.Event()

    async def receive() -> None:
        receiving = asyncio.ensure_future(channel_layer.receive("general"))
        await asyncio.sleep(0)
        ready.set()
        got.append(await receiving)

    thread = threading.Thread(target=asyncio.run, args=(receive(),))
    thread.start()
    await asyncio.to_thread(ready.wait, LIMIT)
    await channel_layer.send("general", HELLO)
    await settled(channel_layer)
    await asyncio.to_thread(thread.join, LIMIT)
    assert got == [HELLO]


async def test_what_does_not_settle(channel_layer: InMemoryChannelLayer) -> None:
    forever = asyncio.Event()
    async with communicator(chat_of(AsyncJsonWebsocketConsumer, forever.wait)):
        await channel_layer.group_send("room", HELLO)
        with pytest.raises(TimeoutError, match=r"not settled within 0.05 s: a message in Task-"):
            await settled(channel_layer, timeout=0.05)
        forever.set()
    with pytest.raises(TypeError, match="InMemoryChannelLayer"):
        await settled(ChannelsLayer())


# Consumers that end.


async def test_the_consumer_ends_with_a_failing_test(channel_layer: InMemoryChannelLayer) -> None:
    """One that is in a thread and waits for the test's event loop: left behind, it holds up all threads to come."""

    class Chat(JsonWebsocketConsumer):  # type: ignore[misc]
        groups = ("room",)

        def receive_json(self, content: Any, **others: Any) -> None:
            async_to_sync(asyncio.sleep)(0.01)
            self.send_json(content)

    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with communicator(Chat.as_asgi()) as client:
            await client.send_json_to(1)
            1 / 0  # noqa: B018
    assert client.future.done()
    assert channel_layer.groups == {}
    # The thread is free.
    assert await within(database_sync_to_async(lambda: 1)()) == 1


async def test_a_consumer_that_raises(channel_layer: InMemoryChannelLayer) -> None:
    class Broken(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        async def receive_json(self, content: Any, **others: Any) -> None:
            raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):  # noqa: PT012
        async with communicator(Broken.as_asgi()) as client:
            await client.send_json_to(1)
            await settled(channel_layer)

    class Refusing(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.close(4001)

    with pytest.raises(AssertionError, match="refused with code 4001"):
        async with communicator(Refusing.as_asgi()):
            pass
    async with communicator(Refusing.as_asgi(), "/path/?x=1", connect=False) as client:
        assert client.scope["query_string"] == b"x=1"
        assert await client.connect() == (False, 4001)
    async with communicator(Refusing.as_asgi(), connect=False):
        pass


async def test_a_consumer_that_does_not_leave(channel_layer: InMemoryChannelLayer) -> None:
    ended = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    with pytest.raises(TimeoutError, match=r"of / did not end within 0.01 s"):
        async with communicator(application, timeout=0.01):
            pass
    assert ended == [1]


# The plugin.


def test_pytest_finds_it() -> None:
    (plugin,) = entry_points(group="pytest11", name="channels_redis_fast")
    assert plugin.value == "channels_redis_fast.pytest_plugin"


def test_in_a_project_of_its_own(tmp_path: Path) -> None:
    """Where it is not used it imports nothing: no Django, no Channels. Where it is, it needs no settings."""
    tests = tmp_path / "test_project.py"
    tests.write_text(
        textwrap.dedent(
            """
            import asyncio
            import sys

            def test_nothing_is_imported():
                assert not {"django", "channels", "msgpack", "channels_redis_fast.memory"} & set(sys.modules)

            def test_without_settings(channel_layer):
                from channels.layers import get_channel_layer
                from django.conf import settings

                async def there_and_back():
                    await get_channel_layer().send("general", {"n": 1})
                    return await channel_layer.receive("general")

                assert asyncio.run(there_and_back()) == {"n": 1}
                assert not settings.configured
            """
        )
    )
    others = [
        word for name in ("cacheprovider", "valkey", "asyncio", "xdist", "benchmark") for word in ("-p", f"no:{name}")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *others, str(tests)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
