"""Clients of resumable consumers miss nothing across a reconnect: on each kind of dispatch, with each layer."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from channels.exceptions import DenyConnection, InvalidChannelLayerError, StopConsumer
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from bench.server import ForeignServer, Server
from channels_redis_fast import consumers
from channels_redis_fast.consumers import Resumable
from channels_redis_fast.history import FIELD
from tests.conftest import remove_keys
from tests.consumers.conftest import layers_of
from tests.consumers.feeds import HISTORY, Browser, say
from tests.consumers.ways import NAMES, Socket, Way, way_of
from tests.core.helpers import LIMIT, until, within

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])


@pytest.fixture(params=NAMES)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Whose dispatch."""
    with way_of(request.param) as way:
        yield way


@pytest.fixture
def layers(kind: str, redis_server: Server | ForeignServer, prefix: str) -> dict[str, Any]:
    options = {"on_reconnect": "redis.back"} if kind == "pubsub" else {}
    return layers_of(kind, redis_server.url, prefix, history=HISTORY, **options)


def feed_of(way: Way, *names: str) -> Any:
    """A consumer in these groups: it passes on what is said there, and joins and leaves others as its client says."""

    class Feed(Resumable, way.json):  # type: ignore[name-defined,misc]
        groups = names

        async def room_said(self, event: dict[str, Any]) -> None:
            await self.send_json({"said": event["number"]})

        async def redis_back(self, event: dict[str, Any]) -> None:
            await self.send_json({"type": "back"})

        async def receive_json(self, content: dict[str, Any], **others: Any) -> None:
            if "join" in content:
                await self.join(content["join"])
            elif "leave" in content:
                await self.leave(content["leave"])
            else:
                await self.send_json({"pong": 1})

    return Feed


async def test_a_first_visit(way: Way, layer: Any) -> None:
    """The client has a position before there is any message, and gets none of those before it came."""
    await say(layer, "room.a", 1)
    browser = await Browser(feed_of(way, "room.a")).visit()
    (notice,) = await browser.resumed()
    assert notice == {"type": "resumed", "group": "room.a", "complete": True, "position": notice["position"]}
    await say(layer, "room.a", 2)
    frame = await browser.hear()
    assert frame == {"said": 2, "position": frame["position"]}
    assert frame["position"] > notice["position"]
    await browser.hears_nothing_more()
    await browser.leave()


@pytest.mark.parametrize("ends", ["leave", "vanish"])
async def test_what_was_missed_comes_once_and_first(way: Way, layer: Any, ends: str) -> None:
    browser = await Browser(feed_of(way, "room.a")).visit()
    await browser.resumed()
    for start in (0, 100):
        await say(layer, "room.a", start)
        await browser.hear()
        await getattr(browser, ends)()
        missed = range(start + 1, start + 41)
        await say(layer, "room.a", *missed)
        await browser.visit()
        # In the middle of what was missed.
        await say(layer, "room.a", start + 41, start + 42)
        assert [notice["complete"] for notice in await browser.resumed()] == [True]
        while len(browser.said) < 43:
            await browser.hear()
        assert browser.said == list(range(start, start + 43))
        browser.said.clear()
        await browser.hears_nothing_more()
    await browser.leave()


async def test_several_groups(way: Way, layer: Any) -> None:
    """Each from where the client was, in positions or in a map; of a group that is not joined it gets nothing."""
    groups = ["room.a", "room.b", "room.c"]
    browser = await Browser(feed_of(way, *groups)).visit()
    await browser.resumed(3)
    await browser.leave()
    await say(layer, "room.a", 1, 2)
    await say(layer, "room.b", 11)
    await say(layer, "room.c", 21)
    fewer = Browser(feed_of(way, *groups[:2]))
    fewer.positions = dict(browser.positions)
    await fewer.visit()
    assert len(await fewer.resumed(2)) == 2
    assert fewer.said == [1, 2, 11]
    await fewer.hears_nothing_more()
    await fewer.leave()
    position_of = {notice["group"]: notice for notice in await (await browser.visit()).resumed(3)}
    assert browser.said == [1, 2, 11, 21]
    await browser.leave()
    await say(layer, "room.a", 3)
    await say(layer, "room.b", 12)
    mapped = {"room.a": position_of["room.a"]["position"], "room.b": None}
    assert [notice["complete"] for notice in await (await browser.visit(f"since={json.dumps(mapped)}")).resumed(3)] == [
        *(True, True, True)
    ]
    assert browser.said == [1, 2, 11, 21, 3]
    await browser.leave()


async def test_two_tabs(way: Way, layer: Any) -> None:
    """Each has its own position; one that comes back takes nothing from the other."""
    feed = feed_of(way, "room.a")
    here, there = await Browser(feed).visit(), await Browser(feed).visit()
    await here.resumed()
    await there.resumed()
    await here.leave()
    await say(layer, "room.a", 1, 2)
    assert [(await there.hear())["said"] for _ in range(2)] == [1, 2]
    await there.vanish()
    await say(layer, "room.a", 3)
    await here.visit()
    await there.visit()
    await here.resumed()
    await there.resumed()
    assert (here.said, there.said) == ([1, 2, 3], [1, 2, 3])
    for tab in (here, there):
        await tab.hears_nothing_more()
        await tab.leave()


async def test_a_group_joined_late(way: Way, layer: Any) -> None:
    """What was missed of it comes when the handler has returned that joined it; after leaving, nothing does."""
    browser = await Browser(feed_of(way)).visit()
    for again in (False, True):
        browser.socket.say(json.dumps({"join": "room.a"}))
        await browser.resumed()
        assert browser.said == ([1, 2] if again else [])
        await say(layer, "room.a", 3 if again else 0)
        await browser.hear()
        browser.said.clear()
        # Joined again, which renews the membership and no more.
        browser.socket.say(json.dumps({"join": "room.a"}))
        browser.socket.say(json.dumps({"leave": "room.a"}))
        await browser.hears_nothing_more()
        await say(layer, "room.a", 1, 2)
        if not again:
            # It does not get what it missed on purpose.
            browser.socket.say(json.dumps({"join": "room.a"}))
            await browser.resumed()
            assert browser.said == []
            await browser.leave()
            await say(layer, "room.a", 1, 2)
            await browser.visit()
    await browser.hears_nothing_more()
    await browser.leave()


async def test_not_what_is_older_than_the_membership(way: Way, layer: Any) -> None:
    browser = await Browser(feed_of(way, "room.a")).visit()
    await browser.resumed()
    await browser.leave()
    await say(layer, "room.a", 1, 2, 3)
    second = (await layer.group_history("room.a", since=next(iter(browser.positions.values())), limit=2)).position
    calls = []

    class Members(feed_of(way, "room.a")):  # type: ignore[misc]
        start: str | None = second

        async def resume_from(self, group: str, since: str | None) -> str | None:
            calls.append((group, since))
            return self.start and max(self.start, since or "")

    member = Browser(Members)
    member.positions = dict(browser.positions)
    assert [notice["complete"] for notice in await (await member.visit()).resumed()] == [True]
    assert member.said == [3]
    await member.leave()
    # A client without a position gets what the hook gives it.
    newcomer = await Browser(Members).visit()
    await newcomer.resumed()
    assert newcomer.said == [3]
    await newcomer.leave()
    assert calls == [("room.a", next(iter(browser.positions.values()))), ("room.a", None)]
    Members.start = None
    await say(layer, "room.a", 4)
    assert [notice["complete"] for notice in await (await member.visit()).resumed()] == [True]
    assert member.said == [3]
    await member.leave()
    Members.start = "yesterday"
    with pytest.raises(ValueError, match=r"Members.resume_from returned .*, not a position of group 'room.a'"):
        await Socket(Members.as_asgi()).end()


async def forget(layer: Any) -> None:
    await layer.group_forget("room.a")


async def delete(layer: Any) -> None:
    """What nobody tells the layer of: FLUSHALL, or a restart without data."""
    await asyncio.to_thread(remove_keys, layer.hosts[0]["address"], layer.prefix)


async def trim(layer: Any) -> None:
    await asyncio.gather(*(layer.group_send("room.a", {"type": "room.said", "number": n}) for n in range(2500)))


@pytest.mark.parametrize("lose", [forget, delete, trim])
async def test_a_client_that_may_have_missed_something_is_told(
    way: Way, layer: Any, lose: Callable[[Any], Any]
) -> None:
    """Before it gets anything newer, and once."""
    browser = await Browser(feed_of(way, "room.a")).visit()
    await browser.resumed()
    await browser.leave()
    await say(layer, "room.a", -1)
    await lose(layer)
    await say(layer, "room.a", 5000)
    await browser.visit()
    assert await browser.hear() == {"type": "missed", "group": "room.a"}
    assert [notice["complete"] for notice in await browser.resumed()] == [False]
    assert browser.said[-1] == 5000
    # From here on it has everything.
    await browser.leave()
    await say(layer, "room.a", 5001)
    assert [notice["complete"] for notice in await (await browser.visit()).resumed()] == [True]
    assert browser.said[-2:] == [5000, 5001]
    await browser.leave()


@pytest.mark.parametrize("query", ["since=yesterday", "since={", "since=" + "0" * 20_000], ids=["text", "map", "long"])
async def test_positions_that_are_none(way: Way, layer: Any, query: str) -> None:
    await say(layer, "room.a", 1)
    browser = await Browser(feed_of(way, "room.a")).visit(query)
    assert [notice["type"] for notice in await browser.resumed()] == ["missed", "resumed"]
    assert browser.said == []
    await say(layer, "room.a", 2)
    await browser.hear()
    assert browser.said == [2]
    await browser.leave()


async def test_what_its_channel_brings_as_well(way: Way, layer: Any) -> None:
    """A message that is both in the history and on the channel is handled once."""

    class Eager(feed_of(way)):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.channel_layer.group_add("room.a", self.channel_name)
            await say(layer, "room.a", 2, 3)
            await self.join("room.a")
            await self.accept()

    browser = await Browser(feed_of(way, "room.a")).visit()
    await browser.resumed()
    await browser.leave()
    await say(layer, "room.a", 1)
    eager = Browser(Eager)
    eager.positions = browser.positions
    await (await eager.visit()).resumed()
    await say(layer, "room.a", 4)
    await eager.hear()
    assert eager.said == [1, 2, 3, 4]
    await eager.hears_nothing_more()
    await eager.leave()


async def test_a_client_that_is_accepted_later(way: Way, layer: Any) -> None:
    """Nothing is handled before; what is sent meanwhile comes behind what was missed."""
    browser = await Browser(feed_of(way, "room.a")).visit()
    await browser.resumed()
    await browser.leave()
    await say(layer, "room.a", 1, 2)
    channel: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    class Cautious(feed_of(way, "room.a")):  # type: ignore[misc]
        async def connect(self) -> None:
            channel.set_result(self.channel_name)

        async def let_in(self, event: dict[str, Any]) -> None:
            await self.accept()

    visit = asyncio.ensure_future(Browser(Cautious).visit(f"since={next(iter(browser.positions.values()))}"))
    name = await within(channel)
    await say(layer, "room.a", 3)
    await layer.send(name, {"type": "let.in"})
    cautious = await visit
    await cautious.resumed()
    while len(cautious.said) < 3:
        await cautious.hear()
    assert cautious.said == [1, 2, 3]
    await cautious.hears_nothing_more()
    await cautious.leave()


async def test_a_client_that_is_denied(way: Way, layer: Any) -> None:
    """Nothing is handled for it, and it is in no group any more."""
    handled = []

    class Denied(feed_of(way, "room.a")):  # type: ignore[misc]
        async def connect(self) -> None:
            await say(layer, "room.a", 1)
            raise DenyConnection

        async def room_said(self, event: dict[str, Any]) -> None:
            handled.append(event)

    communicator = WebsocketCommunicator(Denied.as_asgi(), "/?since=yesterday")
    accepted, _ = await communicator.connect(timeout=LIMIT)
    assert not accepted
    await communicator.disconnect(timeout=LIMIT)
    assert handled == []


@pytest.mark.parametrize("ending", ["close", "stop", "error"])
async def test_a_handler_that_ends_the_connection(way: Way, layer: Any, ending: str) -> None:
    """What was missed behind that is not handled."""

    class Ended(feed_of(way, "room.a")):  # type: ignore[misc]
        async def room_said(self, event: dict[str, Any]) -> None:
            await super().room_said(event)
            if event["number"] == 2 and ending == "close":
                await self.close()
            elif event["number"] == 2:
                raise StopConsumer if ending == "stop" else RuntimeError("no")

    browser = await Browser(feed_of(way, "room.a")).visit()
    await browser.resumed()
    await browser.leave()
    await say(layer, "room.a", 1, 2, 3)
    ended = Browser(Ended)
    ended.positions = browser.positions
    await ended.visit()
    await ended.hear()
    await ended.hear()
    if ending == "close":
        assert (await ended.socket.next())["type"] == "websocket.close"
        ended.socket.leave()
    if ending == "error":
        with pytest.raises(RuntimeError, match="no"):
            await ended.socket.end()
    else:
        await ended.socket.end()
    assert ended.socket.sent.empty()
    assert ended.said == [1, 2]


async def test_everything_goes_through_dispatch(way: Way, layer: Any) -> None:
    """A consumer's own ``dispatch`` sees what was missed as well; handlers join groups, and run one at a time."""
    dispatched: list[Any] = []

    class Watched(feed_of(way, "room.a")):  # type: ignore[misc]
        async def dispatch(self, message: dict[str, Any]) -> None:
            dispatched.append(message.get("number"))
            await super().dispatch({**message})

        async def room_said(self, event: dict[str, Any]) -> None:
            if event["number"] == 1:
                await self.join("room.b")
            await asyncio.sleep(0)
            await super().room_said(event)

    browser = await Browser(feed_of(way, "room.a", "room.b")).visit()
    await browser.resumed(2)
    await browser.leave()
    await say(layer, "room.b", 11)
    await say(layer, "room.a", 1, 2)
    watched = Browser(Watched)
    watched.positions = browser.positions
    await (await watched.visit()).resumed(2)
    assert watched.said == [1, 2, 11]
    assert [number for number in dispatched if number] == [1, 2, 11]
    await watched.leave()


FRAMES = {
    "an object": ('{"a": 1}', '{"a": 1, "position": "P"}'),
    "an empty one": ("{} ", '{"position": "P"}'),
    "with its own position": ('{"position": 1, "a": 2}', '{"position": "P", "a": 2}'),
    "a list": ("[1]", "[1]"),
    "text": ("{a}", "{a}"),
    "nested": ('{"a":' * 100_000, '{"a":' * 100_000),
    "bytes": (b"\x00", b"\x00"),
}


@pytest.mark.parametrize("case", FRAMES)
async def test_how_a_frame_carries_its_position(layer: Any, case: str) -> None:
    sent, expected = FRAMES[case]

    class Feed(Resumable, consumers.AsyncWebsocketConsumer):
        groups = ("room.a",)

        async def room_said(self, event: dict[str, Any]) -> None:
            if isinstance(sent, bytes):
                await self.send(bytes_data=sent)
            else:
                await self.send(text_data=sent)
            assert event[FIELD]

    socket = Socket(Feed.as_asgi())
    await socket.accepted()
    assert json.loads(await socket.text())["type"] == "resumed"
    await say(layer, "room.a", 1)
    frame = await socket.next()
    got = frame.get("text") or frame.get("bytes")
    if isinstance(got, str) and got != sent:
        position = json.loads(got)["position"]
        assert len(position) == 41
        got = got.replace(position, "P")
    assert got == expected
    socket.leave()
    await socket.end()


async def test_frames_as_a_site_has_them(way: Way, layer: Any) -> None:
    """With a key of its own, lists, bytes and notices."""

    class Feed(Resumable, way.json):  # type: ignore[name-defined,misc]
        groups = ("room.a",)
        position_key = "at"

        async def room_said(self, event: dict[str, Any]) -> None:
            number = event["number"]
            if number == 1:
                await self.send_json({"position": "of the player", "at": "nowhere"})
            elif number == 2:
                await self.send_json([2])
            else:
                await self.send(bytes_data=b"3")

        def bytes_with_position(self, data: bytes, position: str) -> bytes:
            return position.encode() + b" " + data

        async def resumed(self, group: str, position: str, complete: bool) -> None:
            await self.send_json([group, position, complete])

    socket = Socket(Feed.as_asgi())
    await socket.accepted()
    group, position, complete = json.loads(await socket.text())
    assert (group, complete) == ("room.a", True)
    await say(layer, "room.a", 1, 2, 3)
    first = json.loads(await socket.text())
    assert first == {"position": "of the player", "at": first["at"]}
    assert first["at"] > position
    assert json.loads(await socket.text()) == [2]
    third, _, rest = (await socket.next())["bytes"].partition(b" ")
    assert rest == b"3"
    assert third.decode() > first["at"]
    socket.leave()
    await socket.end()


async def test_a_consumer_with_a_send_json_of_its_own(way: Way, layer: Any) -> None:
    """It sends text in the end, which has its position then."""

    class Theirs(way.websocket):  # type: ignore[name-defined,misc]
        async def send_json(self, content: Any, close: Any = False) -> None:
            await self.send(text_data=json.dumps(content, separators=(",", ":")), close=close)

        async def room_said(self, event: dict[str, Any]) -> None:
            await self.send_json({"said": event["number"]})

    class Feed(Resumable, Theirs):
        groups = ("room.a",)

    socket = Socket(Feed.as_asgi())
    await socket.accepted()
    assert json.loads(await socket.text())["type"] == "resumed"
    await say(layer, "room.a", 1)
    text = await socket.text()
    assert text == f'{{"said":1,"position":"{json.loads(text)["position"]}"}}'
    socket.leave()
    await socket.end()


async def test_frames_of_other_tasks(way: Way, layer: Any) -> None:
    """What a handler's own tasks send while it runs belongs to its message; what others send belongs to none."""
    goes, sent = asyncio.Event(), asyncio.Event()

    class Feed(feed_of(way, "room.a")):  # type: ignore[misc]
        async def connect(self) -> None:
            self.tasks = [asyncio.ensure_future(self.send_when_told("of connect"))]
            await self.accept()

        async def send_when_told(self, name: str) -> None:
            await goes.wait()
            await self.send_json({"sent": name})
            sent.set()

        async def room_said(self, event: dict[str, Any]) -> None:
            if event["number"] == 1:
                self.tasks.append(asyncio.ensure_future(self.send_when_told("left behind")))
            else:
                await asyncio.gather(self.send_json({"sent": 1}), self.send_json({"sent": 2}))
                goes.set()
                await sent.wait()
                await asyncio.gather(*self.tasks)

    browser = await Browser(Feed).visit()
    await browser.resumed()
    await say(layer, "room.a", 1, 2)
    frames = [await browser.hear() for _ in range(4)]
    carrying = [frame for frame in frames if "position" in frame]
    assert [frame["sent"] for frame in carrying] == [1, 2]
    assert carrying[0]["position"] == carrying[1]["position"]
    assert [frame for frame in frames if "position" not in frame] == [{"sent": "of connect"}, {"sent": "left behind"}]
    await browser.leave()


async def test_groups_that_a_consumer_adds_to_its_list(way: Way, layer: Any) -> None:
    """Channels leaves those when the client goes."""
    seen = []

    class Feed(feed_of(way, "room.a")):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.join("room.b")
            self.groups.append("room.b")
            await self.accept()

        async def disconnect(self, code: int) -> None:
            seen.extend(self.groups)

    browser = await Browser(Feed).visit()
    await browser.resumed(2)
    await browser.leave()
    assert seen == ["room.a", "room.b"]


@pytest.mark.parametrize("kind", ["pubsub"], indirect=True)
async def test_after_an_outage_of_a_subscription(way: Way, layer: Any) -> None:
    """The client is told in which groups something may be missing, before the consumer's own handler."""
    names: list[str] = []

    class Feed(feed_of(way, "room.a", "room.b")):  # type: ignore[misc]
        async def connect(self) -> None:
            names.append(self.channel_name)
            await self.accept()

    browser = await Browser(Feed).visit()
    await browser.resumed(2)
    await layer.send(names[0], {"type": "redis.back"})
    assert await browser.hear() == {"type": "back"}
    await layer.send(names[0], {"type": "redis.back", "complete": False})
    frames = [await browser.hear() for _ in range(3)]
    told = [(frame["type"], frame.get("group")) for frame in frames]
    assert told == [("missed", "room.a"), ("missed", "room.b"), ("back", None)]
    await browser.leave()


async def test_a_join_of_another_task(way: Way, layer: Any) -> None:
    class Feed(feed_of(way, "room.a")):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.accept()
            await asyncio.ensure_future(self.join("room.b"))

    socket = Socket(Feed.as_asgi())
    with pytest.raises(RuntimeError, match=r"join\(\) has to be called from a handler"):
        await socket.end()


async def test_without_a_history(way: Way, here: None, redis_server: Any, kind: str, prefix: str) -> None:
    """The first client shows what is missing, by name."""
    feed = feed_of(way, "lobby")
    with pytest.raises(RuntimeError, match=r"Group 'lobby' has no history: no pattern of the option 'history'"):
        await Socket(feed.as_asgi()).end()
    await get_channel_layer().close_pools()
    with override_settings(CHANNEL_LAYERS=layers_of(kind, redis_server.url, prefix)):
        with pytest.raises(RuntimeError, match="This layer has no option 'history'"):
            await Socket(feed.as_asgi()).end()
        await get_channel_layer().close_pools()
    memory = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    with (
        override_settings(CHANNEL_LAYERS=memory),
        pytest.raises(RuntimeError, match=r"Feed needs .* 'history'; channels.layers.InMemoryChannelLayer has no"),
    ):
        await Socket(feed.as_asgi()).end()
    with override_settings(CHANNEL_LAYERS={}), pytest.raises(InvalidChannelLayerError):
        await Socket(feed.as_asgi()).end()


async def test_500_clients_come_back_at_once(layer: Any) -> None:
    """While the group goes on; each gets each message once, in order."""
    feed = feed_of(Way("direct", json=consumers.AsyncJsonWebsocketConsumer), "room.a")
    browsers = [Browser(feed) for _ in range(500)]

    async def come(browser: Browser) -> None:
        await (await browser.visit()).resumed()

    def heard(browser: Browser) -> list[int]:
        sent = list(browser.socket.sent._queue)  # type: ignore[attr-defined]
        frames = [json.loads(message["text"]) for message in sent]
        return [frame["said"] for frame in frames if "said" in frame]

    await within(asyncio.gather(*map(come, browsers)), 60)
    await asyncio.gather(*(browser.leave() for browser in browsers))
    await say(layer, "room.a", *range(20))
    talk = asyncio.ensure_future(say(layer, "room.a", *range(20, 30)))
    await within(asyncio.gather(*(browser.visit() for browser in browsers)), 60)
    await talk
    # Each message, and that it is resumed.
    await until(lambda: all(browser.socket.sent.qsize() >= 31 for browser in browsers), 60)
    await asyncio.gather(*(browser.leave() for browser in browsers))
    assert [browser for browser in browsers if heard(browser) != list(range(30))] == []


async def test_memory_is_given_back(layer: Any) -> None:
    """Nothing of a consumer stays when it has ended."""
    feed = feed_of(Way("direct", json=consumers.AsyncJsonWebsocketConsumer), "room.a")
    made: list[weakref.ref[Any]] = []

    class Counted(feed):  # type: ignore[misc,valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    browser = await Browser(Counted).visit()
    await browser.resumed()
    await browser.leave()
    del browser
    gc.collect()
    await until(lambda: made[0]() is None)
