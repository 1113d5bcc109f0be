"""Server-Sent Events whose clients miss nothing across a reconnect: on each kind of dispatch, with each layer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bench.server import ForeignServer, Server
from channels_redis_fast import consumers
from channels_redis_fast.consumers import ResumableEvents
from tests.consumers.conftest import layers_of, members
from tests.consumers.feeds import HISTORY, say
from tests.consumers.ways import NAMES, Socket, Way, way_of
from tests.core.helpers import until

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


@pytest.fixture(params=NAMES)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Whose dispatch."""
    with way_of(request.param) as way:
        yield way


@pytest.fixture
def layers(kind: str, redis_server: Server | ForeignServer, prefix: str) -> dict[str, Any]:
    return layers_of(kind, redis_server.url, prefix, history=HISTORY)


def feed_of(way: Way, *names: str) -> Any:
    class Feed(ResumableEvents, way.http):  # type: ignore[name-defined,misc]
        groups = names
        heartbeat = None
        ended = 0

        async def room_said(self, event: dict[str, Any]) -> None:
            await self.send_event(str(event["number"]))

        async def disconnect(self) -> None:
            type(self).ended += 1

    return Feed


class EventSource:
    """A browser's: it takes in events, and brings the last ID along when it comes back."""

    def __init__(self, consumer_class: Any, last_id: str = "") -> None:
        self._consumer_class = consumer_class
        self.last_id = last_id
        self.said: list[str] = []

    async def open(self, query: bytes = b"") -> EventSource:
        headers = [(b"host", b"localhost"), *([(b"last-event-id", self.last_id.encode())] if self.last_id else [])]
        self.socket = Socket(
            self._consumer_class.as_asgi(), "http", connects=False, headers=headers, query_string=query
        )
        self.socket.give(type="http.request", body=b"", more_body=False)
        start = await self.socket.next()
        assert (start["type"], start["status"]) == ("http.response.start", 200)
        assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
        await self.body()
        return self

    async def body(self) -> str:
        message = await self.socket.next()
        assert (message["type"], message["more_body"]) == ("http.response.body", True)
        return bytes(message["body"]).decode()

    async def event(self) -> tuple[str, str]:
        """Take in one event; returns its type and its data."""
        text = await self.body()
        assert text.endswith("\n\n")
        kind, lines = "message", []
        for line in text[:-2].split("\n"):
            name, _, value = line.partition(": ")
            if name == "data":
                lines.append(value)
            elif name == "id":
                self.last_id = value
            elif name == "event":
                kind = value
        if kind == "message":
            self.said.append("\n".join(lines))
        return kind, "\n".join(lines)

    async def resumed(self, groups: int = 1) -> list[tuple[str, Any]]:
        """Take in events until so many groups are resumed; returns what was said of groups."""
        notices: list[tuple[str, Any]] = []
        while sum(kind == "resumed" for kind, _ in notices) < groups:
            kind, data = await self.event()
            if kind != "message":
                notices.append((kind, json.loads(data)))
        return notices

    async def leave(self) -> None:
        self.socket.give(type="http.disconnect")
        await self.socket.end()


async def test_what_was_missed_comes_once_and_first(way: Way, layer: Any) -> None:
    """Of several groups, each from where the client was: an ID holds the positions of all."""
    feed = feed_of(way, "room.a", "room.b")
    source = await EventSource(feed).open()
    assert await source.resumed(2) == [
        ("resumed", {"group": group, "complete": True}) for group in ("room.a", "room.b")
    ]
    await say(layer, "room.a", 1)
    await source.event()
    await source.leave()
    await say(layer, "room.b", 11, 12)
    await say(layer, "room.a", 2, 3)
    await source.open()
    # Cut in the middle: the ID has the one group's new position, and the other's old one.
    await source.event()
    await source.leave()
    await say(layer, "room.a", 4)
    await source.open()
    await source.resumed(2)
    await say(layer, "room.a", 5)
    await source.event()
    assert source.said == ["1", "2", "3", "4", "11", "12", "5"]
    await source.leave()
    assert feed.ended == 3


async def test_a_first_visit_with_positions_of_a_page(way: Way, layer: Any) -> None:
    """What was sent between the page and its events."""
    position = (await layer.group_history("room.a", limit=1)).position
    await say(layer, "room.a", 1)
    source = await EventSource(feed_of(way, "room.a")).open(b"since=" + position.encode())
    await source.resumed()
    assert source.said == ["1"]
    await source.leave()


@pytest.mark.parametrize("last_id", ["7", "0" * 20_000])
async def test_an_id_that_is_none(way: Way, layer: Any, last_id: str) -> None:
    source = await EventSource(feed_of(way, "room.a"), last_id).open()
    assert await source.resumed() == [
        ("missed", {"group": "room.a"}),
        ("resumed", {"group": "room.a", "complete": False}),
    ]
    await source.leave()


async def test_a_client_that_may_have_missed_something_is_told(way: Way, layer: Any) -> None:
    source = await EventSource(feed_of(way, "room.a")).open()
    await source.resumed()
    await source.leave()
    await layer.group_forget("room.a")
    await source.open()
    assert await source.event() == ("missed", '{"group": "room.a"}')
    await source.resumed()
    await source.leave()


async def test_refused(way: Way, layer: Any) -> None:
    """Who is not accepted gets an answer as from any consumer, and is in no group any more."""
    feed = feed_of(way)

    class Members(feed):  # type: ignore[misc,valid-type]
        async def handle(self, body: bytes) -> None:
            await self.join("room.a")
            await self.send_response(403, b"no " + body)

    socket = Socket(Members.as_asgi(), "http", connects=False, headers=[])
    socket.give(type="http.request", body=b"ho", more_body=True)
    socket.give(type="http.request", body=b"me")
    assert (await socket.next())["status"] == 403
    assert (await socket.next())["body"] == b"no home"
    await socket.end()
    assert Members.ended == 1


async def test_an_error_in_handle(way: Way, layer: Any, kind: str, raw: Any, prefix: str) -> None:
    class Broken(feed_of(way, "room.a")):  # type: ignore[misc]
        async def handle(self, body: bytes) -> None:
            raise LookupError("broken")

    socket = Socket(Broken.as_asgi(), "http", connects=False, headers=[])
    socket.give(type="http.request", body=b"")
    with pytest.raises(LookupError, match="broken"):
        await socket.end()
    assert Broken.ended == 1
    await until(lambda: members(raw, kind, prefix, "room.a") == 0)


async def test_a_response_that_ends(way: Way, layer: Any) -> None:
    """What was missed behind that is not handled."""

    class Short(feed_of(way, "room.a")):  # type: ignore[misc]
        async def room_said(self, event: dict[str, Any]) -> None:
            await super().room_said(event)
            if event["number"] == 1:
                await self.close()

    position = (await layer.group_history("room.a", limit=1)).position
    await say(layer, "room.a", 1, 2)
    source = await EventSource(Short).open(b"since=" + position.encode())
    await source.event()
    assert await source.socket.next() == {"type": "http.response.body", "body": b"", "more_body": False}
    # Whether or not the server tells it that the client has got everything.
    await source.socket.end()
    assert source.socket.sent.empty()
    assert Short.ended == 1


async def test_a_group_without_recovery(way: Way, layer: Any) -> None:
    """A consumer may be in groups that it has not joined with ``join``: their events change no ID."""

    class Feed(feed_of(way)):  # type: ignore[misc]
        async def handle(self, body: bytes) -> None:
            await self.channel_layer.group_add("room.a", self.channel_name)
            await self.accept()

    source = await EventSource(Feed).open()
    await say(layer, "room.a", 1)
    assert await source.body() == "data: 1\n\n"
    await source.leave()


async def test_heartbeats(way: Way, layer: Any) -> None:
    """Comments between events, and a time to wait before coming back; they end with the consumer."""

    class Alive(feed_of(way, "room.a")):  # type: ignore[misc]
        heartbeat = 0.01
        retry = 250

        async def accept(self, *args: Any) -> None:
            await super().accept([(b"x-own", b"1")])

    socket = Socket(Alive.as_asgi(), "http", connects=False, headers=[])
    socket.give(type="http.request", body=b"")
    assert (b"x-own", b"1") in (await socket.next())["headers"]
    assert (await socket.next())["body"] == b"retry: 250\n\n"
    bodies = [(await socket.next())["body"] for _ in range(4)]
    assert bodies.count(b":\n\n") >= 3
    socket.give(type="http.disconnect")
    await socket.end()
    assert [task for task in asyncio.all_tasks() if "_beat" in repr(task)] == []


async def test_a_client_that_vanishes(way: Way, layer: Any) -> None:
    """The server cancels the consumer, and nothing of it goes on."""
    feed = feed_of(way, "room.a")
    feed.heartbeat = 0.01
    socket = Socket(feed.as_asgi(), "http", connects=False, headers=[])
    socket.give(type="http.request", body=b"")
    await socket.next()
    socket.task.cancel()
    await asyncio.wait([socket.task])
    assert [task for task in asyncio.all_tasks() if "_beat" in repr(task)] == []


async def test_events_in_their_format(layer: Any) -> None:
    """Lines of any kind are lines of data; what belongs to no message has no ID."""

    class Feed(ResumableEvents, consumers.AsyncHttpConsumer):
        groups = ("room.a",)

        async def told(self, event: dict[str, Any]) -> None:
            await self.send_event("")

        async def room_said(self, event: dict[str, Any]) -> None:
            if event["number"] == 1:
                await self.send_event("a\nb\r\nc\rd\u2028e\n", "news")
                await layer.send(self.channel_name, {"type": "told"})
            else:
                await self.send_event("", "two\nlines")

    source = await EventSource(Feed).open()
    await source.resumed()
    first = source.last_id
    await say(layer, "room.a", 1)
    text = await source.body()
    head, _, data = text.partition("\ndata: ")
    assert head.startswith("event: news\nid: ")
    assert head.removeprefix("event: news\nid: ") > first
    assert data == "a\ndata: b\ndata: c\ndata: d\u2028e\ndata: \n\n"
    assert await source.body() == "data: \n\n"
    await say(layer, "room.a", 2)
    with pytest.raises(ValueError, match=r"The type of an event must be one line, not 'two\\nlines'"):
        await source.socket.end()
