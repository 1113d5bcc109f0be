"""What a consumer may rely on, on Channels' own dispatch and on ours, with our layers, another one, and none."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from channels.exceptions import AcceptConnection, DenyConnection, InvalidChannelLayerError, StopConsumer
from channels.layers import channel_layers, get_channel_layer
from django.test import override_settings

from tests.consumers.conftest import layers_of
from tests.consumers.ways import NAMES, Socket, Way, socket_of, way_of
from tests.core.helpers import until, within

LAYERS = ("core", "pubsub", "memory", "ours in memory")


@pytest.fixture(params=NAMES)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Whose dispatch."""
    with way_of(request.param) as way:
        yield way


@pytest.fixture(params=LAYERS)
async def layer(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """The default layer."""
    if request.param == "memory":
        layers = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    elif request.param == "ours in memory":
        layers = {"default": {"BACKEND": "channels_redis_fast.memory.InMemoryChannelLayer"}}
    else:
        server, prefix = request.getfixturevalue("redis_server"), request.getfixturevalue("prefix")
        layers = layers_of(request.param, server.url, prefix)
    with override_settings(CHANNEL_LAYERS=layers):
        yield get_channel_layer()
        for each in channel_layers.backends.values():
            if hasattr(each, "close_pools"):
                await each.close_pools()


def echoing(way: Way) -> Any:
    """A consumer that says what it is told: by its client, and by its channel."""

    class Echo(way.websocket):  # type: ignore[name-defined,misc]
        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=getattr(self, "channel_name", ""))

        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            await self.send(text_data=f"client {text_data}")

        async def told(self, event: dict[str, Any]) -> None:
            await self.send(text_data=f"layer {event['text']}")

    return Echo


async def channel_of(socket: Socket) -> str:
    await socket.accepted()
    return await socket.text()


async def test_order_within_each_source(way: Way, layer: Any) -> None:
    async with socket_of(echoing(way)) as socket:
        channel = await channel_of(socket)
        for number in range(50):
            socket.say(str(number))
            await layer.send(channel, {"type": "told", "text": str(number)})
        heard = [(await socket.text()).split() for _ in range(100)]
        for source in ("client", "layer"):
            assert [int(number) for who, number in heard if who == source] == list(range(50))


async def test_one_at_a_time(way: Way, layer: Any) -> None:
    """Whatever comes from both sources, a handler that waits is alone; and others' consumers do not wait for it."""
    running: list[int] = []
    most: list[int] = []

    class Slow(way.websocket):  # type: ignore[name-defined,misc]
        async def connect(self) -> None:
            await self.accept()
            await self.send(text_data=self.channel_name)

        async def work(self) -> None:
            running.append(1)
            most.append(len(running))
            for _ in range(3):
                await asyncio.sleep(0)
            running.pop()
            await self.send(text_data="done")

        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            await self.work()

        async def told(self, event: dict[str, Any]) -> None:
            await self.work()

    async with socket_of(Slow) as socket:
        channel = await channel_of(socket)
        for _ in range(20):
            socket.say("")
            await layer.send(channel, {"type": "told"})
        assert [await socket.text() for _ in range(40)] == ["done"] * 40
    assert set(most) == {1}


async def test_at_most_one_ahead(way: Way, layer: Any) -> None:
    """While a handler runs, the client's next receive is not begun before what came last of it is dispatched."""
    begun = asyncio.Event()
    go_on = asyncio.Event()

    class Held(way.websocket):  # type: ignore[name-defined,misc]
        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            begun.set()
            await go_on.wait()

        async def told(self, event: dict[str, Any]) -> None:
            pass

    async with socket_of(Held) as socket:
        await socket.accepted()
        for _ in range(3):
            socket.say("")
        await within(begun.wait())
        for _ in range(20):
            await asyncio.sleep(0)
        assert socket.incoming.qsize() == 2
        go_on.set()


async def test_a_handler_that_never_returns(way: Way, layer: Any) -> None:
    class Stuck(echoing(way)):  # type: ignore[misc]
        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            await self.send(text_data="stuck")
            await asyncio.Event().wait()

    socket = Socket(Stuck.as_asgi())
    channel = await channel_of(socket)
    socket.say("")
    assert await socket.text() == "stuck"
    await layer.send(channel, {"type": "told", "text": "unheard"})
    async with socket_of(echoing(way)) as other:
        await channel_of(other)
        other.say("hello")
        assert await other.text() == "client hello"
    # Not even its client's end reaches it; the server ends it.
    socket.leave()
    assert not socket.task.done()
    socket.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await socket.end()


async def test_task_and_context(way: Way, layer: Any) -> None:
    """Every handler runs in the task that called the application, and sees what `connect` set."""
    user = contextvars.ContextVar("user", default="nobody")
    tasks: list[Any] = []

    class Member(echoing(way)):  # type: ignore[misc]
        async def connect(self) -> None:
            user.set("ann")
            await super().connect()

        async def send(self, text_data: str | None = None, bytes_data: bytes | None = None, close: Any = False) -> None:
            tasks.append(asyncio.current_task())
            assert user.get() == "ann"
            async with contextlib.AsyncExitStack():
                await super().send(text_data=text_data, bytes_data=bytes_data, close=close)

        async def disconnect(self, code: int) -> None:
            tasks.append(asyncio.current_task())
            assert user.get() == "ann"

    async with socket_of(Member) as socket:
        channel = await channel_of(socket)
        await layer.send(channel, {"type": "told", "text": "1"})
        assert await socket.text() == "layer 1"
        socket.say("2")
        assert await socket.text() == "client 2"
        await layer.send(channel, {"type": "told", "text": "3"})
        assert await socket.text() == "layer 3"
    assert tasks == [socket.task] * 5
    assert user.get() == "nobody"


async def test_stop(way: Way, layer: Any) -> None:
    """StopConsumer, from whichever source's handler, ends the consumer, both of whose sources have ended then."""

    class Stops(echoing(way)):  # type: ignore[misc]
        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            raise StopConsumer

        async def told(self, event: dict[str, Any]) -> None:
            raise StopConsumer

    socket = Socket(Stops.as_asgi())
    await channel_of(socket)
    socket.say("")
    await socket.end()
    socket = Socket(Stops.as_asgi())
    await layer.send(await channel_of(socket), {"type": "told"})
    await socket.end()
    assert not [task for task in asyncio.all_tasks() if "Socket.receive" in repr(task)]


@pytest.mark.parametrize("where", ["connect", "receive", "told", "disconnect"])
async def test_other_exceptions_propagate(way: Way, layer: Any, where: str) -> None:
    class Fails(echoing(way)):  # type: ignore[misc]
        pass

    async def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError(where)

    setattr(Fails, where, fail)
    socket = Socket(Fails.as_asgi())
    if where != "connect":
        channel = await channel_of(socket)
        if where == "receive":
            socket.say("")
        elif where == "told":
            await layer.send(channel, {"type": "told"})
        else:
            socket.leave()
    with pytest.raises(ZeroDivisionError, match=where):
        await socket.end()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"type": "painted.red"}, "No handler for message type painted.red"),
        ({"type": "_told"}, "Malformed type in message (leading underscore)"),
        ({"type": ".told"}, "Malformed type in message (leading underscore)"),
        ({"text": "x"}, "Incoming message has no 'type' attribute"),
    ],
)
async def test_messages_without_a_handler(way: Way, layer: Any, message: dict[str, Any], text: str) -> None:
    for source in ("client", "layer"):
        socket = Socket(echoing(way).as_asgi())
        channel = await channel_of(socket)
        if source == "client":
            socket.give(**message)
        else:
            await layer.send(channel, message)
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            await socket.end()


async def test_a_type_that_is_no_string(way: Way, layer: Any) -> None:
    socket = Socket(echoing(way).as_asgi())
    await layer.send(await channel_of(socket), {"type": 5})
    with pytest.raises(AttributeError, match="'int' object has no attribute 'replace'"):
        await socket.end()


async def test_the_server_cancels(way: Way, layer: Any) -> None:
    """While it waits, and while a handler runs; nothing of it goes on. Its handlers may take their time to end."""
    ended = []

    class Careful(echoing(way)):  # type: ignore[misc]
        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            try:
                await self.send(text_data="at it")
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append("handler")

    waiting, busy = Socket(Careful.as_asgi()), Socket(Careful.as_asgi())
    await channel_of(waiting)
    await channel_of(busy)
    busy.say("")
    assert await busy.text() == "at it"
    for socket in (waiting, busy):
        socket.task.cancel()
    for socket in (waiting, busy):
        with pytest.raises(asyncio.CancelledError):
            await socket.end()
    assert ended == ["handler"]
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if "Socket.receive" in repr(task)]


async def test_cancelled_when_a_message_comes(way: Way, layer: Any) -> None:
    """A cancellation in the very tick of a message ends it as well: the message is not dispatched instead."""
    socket = Socket(echoing(way).as_asgi())
    channel = await channel_of(socket)
    await layer.send(channel, {"type": "told", "text": "1"})
    assert await socket.text() == "layer 1"
    socket.say("")
    socket.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await socket.end()


async def test_a_client_leaves_while_a_handler_runs(way: Way, layer: Any) -> None:
    """The handler ends in peace; then comes `disconnect`."""
    steps = []
    go_on = asyncio.Event()

    class Patient(echoing(way)):  # type: ignore[misc]
        async def told(self, event: dict[str, Any]) -> None:
            steps.append("begun")
            await go_on.wait()
            steps.append("ended")

        async def disconnect(self, code: int) -> None:
            steps.append(f"disconnect {code}")

    socket = Socket(Patient.as_asgi())
    await layer.send(await channel_of(socket), {"type": "told"})
    await until(lambda: steps == ["begun"])
    socket.leave()
    for _ in range(10):
        await asyncio.sleep(0)
    go_on.set()
    await socket.end()
    assert steps == ["begun", "ended", "disconnect 1000"]


async def test_sends_to_a_group_of_its_own(way: Way, layer: Any) -> None:
    """What a handler sends to its own group comes after it, and does not deadlock it."""

    class Chain(way.websocket):  # type: ignore[name-defined,misc]
        groups = ("den",)

        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            await self.channel_layer.group_send("den", {"type": "told", "left": 5})
            await self.send(text_data="sent")

        async def told(self, event: dict[str, Any]) -> None:
            if event["left"]:
                await self.channel_layer.group_send("den", {"type": "told", "left": event["left"] - 1})
            await self.send(text_data=str(event["left"]))

    async with socket_of(Chain) as socket:
        await socket.accepted()
        socket.say("")
        assert [await socket.text() for _ in range(7)] == ["sent", "5", "4", "3", "2", "1", "0"]


async def test_close_in_a_handler(way: Way, layer: Any) -> None:
    """The consumer lives on until its client's end comes, and may send: what becomes of that is the server's word."""

    class Closes(echoing(way)):  # type: ignore[misc]
        async def told(self, event: dict[str, Any]) -> None:
            await self.close(code=4001, reason="enough")
            await self.send(text_data="after")

    async with socket_of(Closes) as socket:
        await layer.send(await channel_of(socket), {"type": "told"})
        assert await socket.next() == {"type": "websocket.close", "code": 4001, "reason": "enough"}
        assert await socket.text() == "after"


async def test_a_send_that_fails(way: Way, layer: Any) -> None:
    """As a server's does after the close: the handler gets the error, and may catch it."""

    class Sends(echoing(way)):  # type: ignore[misc]
        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            try:
                await self.send(text_data="refused")
            except OSError as error:
                self.base_send = self.allowed
                await self.send(text_data=f"caught {error}")

        async def told(self, event: dict[str, Any]) -> None:
            self.allowed, self.base_send = self.base_send, refuse
            await self.allowed({"type": "websocket.send", "text": "ready"})

    async def refuse(message: dict[str, Any]) -> None:
        raise OSError("gone")

    async with socket_of(Sends) as socket:
        channel = await channel_of(socket)
        await layer.send(channel, {"type": "told"})
        assert await socket.text() == "ready"
        socket.say("")
        assert await socket.text() == "caught gone"


@pytest.mark.parametrize(
    ("error", "answer"), [(AcceptConnection, "websocket.accept"), (DenyConnection, "websocket.close")]
)
async def test_accept_and_deny(way: Way, layer: Any, error: type[Exception], answer: str) -> None:
    class Decides(way.websocket):  # type: ignore[name-defined,misc]
        async def connect(self) -> None:
            raise error

    async with socket_of(Decides) as socket:
        assert (await socket.next())["type"] == answer


async def test_groups_without_a_layer(way: Way) -> None:
    class Grouped(way.websocket):  # type: ignore[name-defined,misc]
        groups = ("den",)

    with override_settings(CHANNEL_LAYERS={}):
        socket = Socket(Grouped.as_asgi())
        with pytest.raises(InvalidChannelLayerError, match="BACKEND is unconfigured or doesn't support groups"):
            await socket.end()


async def test_without_a_layer(way: Way) -> None:
    with override_settings(CHANNEL_LAYERS={}):
        async with socket_of(echoing(way)) as socket:
            assert await channel_of(socket) == ""
            for number in range(40):
                socket.say(str(number))
            assert [await socket.text() for _ in range(40)] == [f"client {number}" for number in range(40)]


async def test_neither_source_starves_the_other(way: Way, layer: Any) -> None:
    """A handler that never suspends and always finds a message of one source waiting sees the other's, soon."""

    class Counts(echoing(way)):  # type: ignore[misc]
        heard = ()

        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            self.heard = (*self.heard, "client")
            self.count()

        async def told(self, event: dict[str, Any]) -> None:
            self.heard = (*self.heard, "layer")
            self.count()

        def count(self) -> None:
            if len(self.heard) == 80:
                self.outgoing(self.heard)

        def outgoing(self, heard: Any) -> None:
            counted.set_result(heard)

    counted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    hold = asyncio.Event()

    class Held(Counts):
        async def websocket_connect(self, message: Any) -> None:
            await super().websocket_connect(message)
            await hold.wait()

    async with socket_of(Held) as socket:
        channel = await channel_of(socket)
        for _ in range(40):
            await layer.send(channel, {"type": "told"})
            socket.say("")
        hold.set()
        heard = await within(counted)
        # Each is heard of at least so often while the other has something to say.
        for source in ("client", "layer"):
            first_half = heard[:60]
            assert first_half.count(source) >= 20, heard


async def test_others_have_a_turn(way: Way, layer: Any) -> None:
    """A consumer whose mailbox is full, and whose handlers never suspend, does not hold up the event loop."""
    turns = 0
    seen: list[int] = []
    hold = asyncio.Event()

    class Busy(echoing(way)):  # type: ignore[misc]
        async def websocket_connect(self, message: Any) -> None:
            await super().websocket_connect(message)
            await hold.wait()

        async def told(self, event: dict[str, Any]) -> None:
            seen.append(turns)

    async def turn() -> None:
        nonlocal turns
        while len(seen) < 90:
            turns += 1
            await asyncio.sleep(0)

    async with socket_of(Busy) as socket:
        channel = await channel_of(socket)
        for _ in range(90):
            await layer.send(channel, {"type": "told"})
        hold.set()
        await within(turn())
    assert len(set(seen)) > 3


async def test_backpressure(way: Way, layer: Any) -> None:
    """A client that does not read delays its own consumer alone."""

    class Grouped(echoing(way)):  # type: ignore[misc]
        groups = ("den",)

    async with socket_of(Grouped) as slow, socket_of(Grouped) as other:
        await channel_of(slow)
        await channel_of(other)
        slow.reads.clear()
        for number in range(10):
            await layer.group_send("den", {"type": "told", "text": str(number)})
            assert await other.text() == f"layer {number}"
        assert slow.sent.empty()
        slow.reads.set()
        assert [await slow.text() for _ in range(10)] == [f"layer {number}" for number in range(10)]


@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_a_client_that_does_not_read_fills_its_own_mailbox(
    way: Way, kind: str, redis_server: Any, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to its capacity, the oldest giving way. Others, with the same capacity, miss nothing."""

    class Grouped(echoing(way)):  # type: ignore[misc]
        groups = ("den",)

    capacity, last = 5, 29
    with override_settings(CHANNEL_LAYERS=layers_of(kind, redis_server.url, prefix, capacity=capacity)):
        layer = get_channel_layer()
        async with socket_of(Grouped) as slow, socket_of(Grouped) as other:
            await channel_of(slow)
            await channel_of(other)
            slow.reads.clear()
            for number in range(last + 1):
                await layer.group_send("den", {"type": "told", "text": str(number)})
                assert await other.text() == f"layer {number}"
            slow.reads.set()
            kept = [0, *range(last + 1 - capacity, last + 1)]
            assert [await slow.text() for _ in kept] == [f"layer {number}" for number in kept]
            await layer.group_send("den", {"type": "told", "text": "more"})
            assert await slow.text() == await other.text() == "layer more"
        await layer.close_pools()
    [warning] = [record.getMessage() for record in caplog.records if "does not keep up" in record.getMessage()]
    assert f"capacity {capacity}" in warning


async def test_overrides(way: Way, layer: Any) -> None:
    """`dispatch`, `send`, `base_send` and `channel_receive` are the class' own, if it has any."""

    class Own(echoing(way)):  # type: ignore[misc]
        async def dispatch(self, message: dict[str, Any]) -> None:
            dispatched.append(message["type"])
            await super().dispatch(message)

        async def send(self, text_data: str | None = None, bytes_data: bytes | None = None, close: Any = False) -> None:
            await super().send(text_data=f"sent {text_data}", bytes_data=bytes_data, close=close)

        @property
        def channel_receive(self) -> Any:
            return self._own_receive

        @channel_receive.setter
        def channel_receive(self, receive: Any) -> None:
            async def own() -> Any:
                message = await receive()
                return {**message, "text": "own " + message["text"]}

            self._own_receive = own

    dispatched: list[str] = []
    async with socket_of(Own) as socket:
        await socket.accepted()
        channel = (await socket.text()).removeprefix("sent ")
        await layer.send(channel, {"type": "told", "text": "1"})
        assert await socket.text() == "sent layer own 1"
        socket.say("2")
        assert await socket.text() == "sent client 2"
    assert dispatched == ["websocket.connect", "told", "websocket.receive", "websocket.disconnect"]


async def test_a_receive_that_uses_its_task(way: Way, layer: Any) -> None:
    """A middleware around `receive` may set time limits: they end its own wait, and nothing of the consumer."""
    application = echoing(way).as_asgi()

    async def limited(scope: Any, receive: Any, send: Any) -> None:
        async def patient() -> Any:
            while True:
                with contextlib.suppress(asyncio.TimeoutError):
                    return await asyncio.wait_for(receive(), 0.001)

        await application(scope, patient, send)

    socket = Socket(limited)
    channel = await channel_of(socket)
    for number in range(5):
        await layer.send(channel, {"type": "told", "text": str(number)})
        assert await socket.text() == f"layer {number}"
        await asyncio.sleep(0.005)
        socket.say(str(number))
        assert await socket.text() == f"client {number}"
    socket.leave()
    await socket.end()


async def test_a_receive_that_fails(way: Way, layer: Any) -> None:
    """The client's or the layer's: its error comes out of the application."""

    async def broken() -> Any:
        raise ConnectionResetError("no more")

    application = echoing(way).as_asgi()

    async def one(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, broken, send)

    with pytest.raises(ConnectionResetError, match="no more"):
        await Socket(one).end()

    class Layerless(echoing(way)):  # type: ignore[misc]
        @property
        def channel_receive(self) -> Any:
            return broken

        @channel_receive.setter
        def channel_receive(self, receive: Any) -> None:
            pass

    with pytest.raises(ConnectionResetError, match="no more"):
        await Socket(Layerless.as_asgi(), connects=False).end()


async def test_nothing_is_lost_when_a_consumer_ends(layer: Any) -> None:
    """A message that has reached the channel and not the consumer when it ends is there for the next receive."""
    if not hasattr(layer, "close_pools"):
        pytest.skip("other layers lose what was received ahead")
    go_on = asyncio.Event()
    with way_of("direct") as way:

        class Leaves(echoing(way)):  # type: ignore[misc]
            async def told(self, event: dict[str, Any]) -> None:
                await go_on.wait()
                raise StopConsumer

        socket = Socket(Leaves.as_asgi())
        channel = await channel_of(socket)
        await layer.send(channel, {"type": "told", "text": "1"})
        await layer.send(channel, {"type": "told", "text": "2"})
        go_on.set()
        await socket.end()
        assert (await within(layer.receive(channel)))["text"] == "2"


async def test_http(way: Way, layer: Any) -> None:
    class Page(way.http):  # type: ignore[name-defined,misc]
        async def handle(self, body: bytes) -> None:
            await self.send_response(200, b"you said " + body, headers=[(b"a", b"b")])

        async def disconnect(self) -> None:
            gone.append(True)

    gone: list[bool] = []
    socket = Socket(Page.as_asgi(), "http", connects=False)
    socket.give(type="http.request", body=b"good ", more_body=True)
    socket.give(type="http.request", body=b"day")
    assert await socket.next() == {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
    assert (await socket.next())["body"] == b"you said good day"
    await socket.end()
    other = Socket(Page.as_asgi(), "http", connects=False)
    other.give(type="http.disconnect")
    await other.end()
    assert gone == [True, True]


async def test_json(way: Way, layer: Any) -> None:
    class Json(way.json):  # type: ignore[name-defined,misc]
        async def receive_json(self, content: Any, **kwargs: Any) -> None:
            await self.send_json({"got": content})

    async with socket_of(Json) as socket:
        await socket.accepted()
        socket.say("[1, 2]")
        assert await socket.text() == '{"got": [1, 2]}'


async def test_sync_consumers(way: Way, layer: Any) -> None:
    """Handlers run in Channels' thread, one at a time and in order."""
    import threading

    threads = set()

    class Sync(way.sync):  # type: ignore[name-defined,misc]
        def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            threads.add(threading.get_ident())
            self.send(text_data=f"client {text_data}")

        def told(self, event: dict[str, Any]) -> None:
            self.send(text_data=f"layer {event['text']}")

        def connect(self) -> None:
            self.accept()
            self.send(text_data=self.channel_name)

    async with socket_of(Sync) as socket:
        channel = await channel_of(socket)
        for number in range(3):
            socket.say(str(number))
            assert await socket.text() == f"client {number}"
            await layer.send(channel, {"type": "told", "text": str(number)})
            assert await socket.text() == f"layer {number}"
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_consumer_that_is_forgotten(way: Way, layer: Any) -> None:
    """Nothing keeps a consumer that has ended."""
    import weakref

    class Short(echoing(way)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            made.append(weakref.ref(self))

    made: list[Any] = []
    async with socket_of(Short) as socket:
        await channel_of(socket)
        socket.say("x")
        assert await socket.text() == "client x"
    del socket
    await asyncio.sleep(0)
    gc.collect()
    assert made[0]() is None
