"""What a server of a cluster says about subscriptions, in every order it may say it; and who is told of what is lost.

Without a server: these orders come about once in a thousand moves. What servers really say is in the other modules.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, cast

import hiredis
import pytest

from channels_redis_fast.cluster.node import Node
from channels_redis_fast.cluster.slots import slot_of
from channels_redis_fast.connection.dialer import Dialer
from channels_redis_fast.connection.link import PushLink
from channels_redis_fast.connection.overdue import LATE
from channels_redis_fast.connection.replies import reply_error
from channels_redis_fast.pubsub.outages import Outages
from channels_redis_fast.stats import Stats
from channels_redis_fast.subscriptions import node_subscriber
from channels_redis_fast.subscriptions.gaps import SubscriptionGaps
from channels_redis_fast.subscriptions.node_subscriber import NodeSubscriber
from channels_redis_fast.subscriptions.repeats import RepeatFilter
from tests.core.helpers import until

# Of one slot, and of another.
A, B, C, X = b"{one}a", b"{one}b", b"{one}c", b"{two}x"
SLOT = slot_of(A)
MOVED = f"MOVED {SLOT} 127.0.0.1:7001"


class Wire:
    """Stands in for a socket: what is written is kept, what a server would say is said by the test."""

    def __init__(self) -> None:
        self.last_activity = 0.0
        self.written: list[list[bytes]] = []
        self.on_push: Any = None

    def write(self, data: bytes, requests: Any) -> None:
        reader = hiredis.Reader()
        reader.feed(data)
        while (command := reader.gets()) is not False:
            self.written.append(command)

    def says(self, *replies: str | tuple[Any, ...]) -> None:
        for reply in replies:
            self.on_push(reply_error(reply) if isinstance(reply, str) else list(reply))


def wire_up(subscriber: NodeSubscriber, wire: Wire) -> None:
    """Give a connection its socket."""
    link = object.__new__(PushLink)
    link.__dict__.update(vars(wire), write=wire.write, close=lambda: None, closed=subscriber.loop.create_future())
    link.closed.set_result(None)
    subscriber.link = link
    # No PING among what is written, however long a test takes.
    subscriber._ping_interval = 30
    subscriber.opened()
    wire.on_push = link.on_push


class FakeNode:
    """As much of a server's command connection as its subscriber looks at."""

    def __init__(self) -> None:
        # Nobody takes it for dead: half a minute is more than any test here lasts.
        self.dialer = Dialer({"host": "127.0.0.1", "port": 7000, "socket_timeout": 60}, "hosts[0]", "pubsub")
        self.loop = asyncio.get_running_loop()
        self.stats = Stats()


class Ear:
    """Keeps what a node's subscriber reports."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def acknowledged(self, subscriber: NodeSubscriber, name: bytes) -> None:
        self.heard.append(("acknowledged", name))

    def taken(self, subscriber: NodeSubscriber, name: bytes) -> None:
        self.heard.append(("taken", name))

    def redirected(self, subscriber: NodeSubscriber, slot: int, error: Exception) -> None:
        self.heard.append(("redirected", slot))

    def forbidden(self, subscriber: NodeSubscriber, name: bytes, error: Exception) -> None:
        self.heard.append(("forbidden", name))

    def lost(self, names: Iterable[bytes]) -> None:
        self.heard.append(("lost", *names))

    def troubled(self) -> None:
        self.heard.append("troubled")

    def new(self) -> list[Any]:
        heard, self.heard = self.heard, []
        return heard


class Place:
    """A node's subscriber on a wire, and what it reports."""

    def __init__(self) -> None:
        self.ear, self.wire, self.messages = Ear(), Wire(), list[tuple[bytes, bytes]]()
        node = FakeNode()
        self.subscriber = NodeSubscriber(
            cast(Node, node), self.ear, lambda *it: self.messages.append(it), RepeatFilter(node.loop)
        )
        wire_up(self.subscriber, self.wire)

    async def wants(self, *names: bytes) -> None:
        for name in names:
            self.subscriber.want(name)
        await asyncio.sleep(0)

    async def leaves(self, *names: bytes) -> None:
        for name in names:
            self.subscriber.unwant(name)
        await asyncio.sleep(0)

    def written(self) -> list[list[bytes]]:
        written, self.wire.written[:] = list(self.wire.written), []
        return written

    def close(self) -> None:
        watch = self.subscriber._watch
        assert watch is not None
        watch.cancel()


@pytest.fixture
async def place() -> Any:
    place = Place()
    yield place
    place.close()


def yes(name: bytes) -> tuple[bytes, bytes, int]:
    return b"ssubscribe", name, 1


def no(name: bytes) -> tuple[bytes, bytes, int]:
    return b"sunsubscribe", name, 1


def message(name: bytes, payload: bytes) -> tuple[bytes, bytes, bytes]:
    return b"smessage", name, payload


async def test_one_command_for_each_slot_in_one_write(place: Place) -> None:
    await place.wants(A, X, B)
    assert place.written() == [[b"SSUBSCRIBE", A, B], [b"SSUBSCRIBE", X]]
    place.wire.says(yes(A), yes(B), yes(X))
    assert place.ear.new() == [("acknowledged", name) for name in (A, B, X)]
    await place.leaves(X, A)
    assert place.written() == [[b"SUNSUBSCRIBE", X], [b"SUNSUBSCRIBE", A]]


async def test_only_what_is_wanted_is_delivered(place: Place) -> None:
    """Of a server that a name has left there may still be something on its way."""
    await place.wants(A)
    place.wire.says(yes(A), (b"smessage", A, b"1"))
    await place.leaves(A)
    place.wire.says((b"smessage", A, b"2"), no(A), (b"smessage", A, b"3"))
    assert place.messages == [(A, b"1")]


async def test_what_an_earlier_subscription_brings_is_not_delivered(place: Place) -> None:
    """A name that was at another server meanwhile has got it from there."""
    await place.wants(A)
    place.wire.says(yes(A), (b"smessage", A, b"1"))
    await place.leaves(A)
    await place.wants(A)
    place.wire.says((b"smessage", A, b"2"), no(A), yes(A), (b"smessage", A, b"3"))
    assert place.messages == [(A, b"1"), (A, b"3")]


async def test_a_slot_that_moves_away(place: Place) -> None:
    """The server ends the subscriptions unasked; asked again, it says where they belong."""
    await place.wants(A, B, X)
    place.wire.says(yes(A), yes(B), yes(X))
    place.written(), place.ear.new()
    place.wire.says(no(B), no(A))
    assert place.ear.new() == [("taken", B), ("taken", A)]
    await asyncio.sleep(0)
    assert place.written() == [[b"SSUBSCRIBE", B, A]]
    place.wire.says(MOVED)
    assert place.ear.new() == [("redirected", SLOT)]
    assert not place.subscriber.has(A)
    assert place.subscriber.has(X)


@pytest.mark.parametrize("order", [[A, B], [B, A]])
async def test_an_end_that_crosses_an_end(place: Place, order: list[bytes]) -> None:
    """Asked to end what it ends by itself, a server says so once for each name, and then that the slot is not there."""
    await place.wants(A, B, C, X)
    place.wire.says(yes(A), yes(B), yes(C), yes(X))
    await place.leaves(A, B)
    await place.wants(b"{three}")
    place.written(), place.ear.new()
    place.wire.says(*(no(name) for name in order), no(C))
    assert place.ear.new() == [("taken", C)]
    # The answer to SUNSUBSCRIBE, which seemed to have been answered; the next command is about another slot.
    place.wire.says(MOVED, yes(b"{three}"))
    assert place.ear.new() == [("acknowledged", b"{three}")]
    await asyncio.sleep(0)
    assert place.written() == [[b"SSUBSCRIBE", C]]
    place.wire.says(MOVED)
    assert place.ear.new() == [("redirected", SLOT)]
    await place.wants(X)
    assert place.subscriber.has(X)


async def test_an_end_that_crosses_a_beginning_in_the_same_slot(place: Place) -> None:
    """The one error is taken for the other; both say the same."""
    await place.wants(A)
    place.wire.says(yes(A))
    await place.leaves(A)
    await place.wants(B)
    await place.wants(X)
    place.written(), place.ear.new()
    place.wire.says(no(A), MOVED)
    assert place.ear.new() == [("redirected", SLOT)]
    place.wire.says(MOVED, yes(X))
    assert place.ear.new() == [("acknowledged", X)]
    assert not place.subscriber.is_asking_for([A, B, X])


async def test_a_name_that_comes_back_before_its_end_is_answered(place: Place) -> None:
    await place.wants(A)
    place.wire.says(yes(A))
    await place.leaves(A)
    await place.wants(A)
    assert place.written() == [[b"SSUBSCRIBE", A], [b"SUNSUBSCRIBE", A], [b"SSUBSCRIBE", A]]
    place.ear.new()
    # Ended by the server, which keeps the slot: as one that is made a primary.
    place.wire.says(no(A), no(A), yes(A))
    assert place.ear.new() == [("taken", A)]
    await asyncio.sleep(0)
    assert place.written() == [[b"SSUBSCRIBE", A]]
    place.wire.says(yes(A))
    assert place.ear.new() == [("acknowledged", A)]
    assert place.subscriber.has(A)


@pytest.mark.parametrize("error", ["CLUSTERDOWN Hash slot not served", "TRYAGAIN Later", "ASK 1 127.0.0.1:7001"])
async def test_other_ways_to_say_not_here(place: Place, error: str) -> None:
    await place.wants(A, B)
    place.wire.says(error)
    assert place.ear.new() == [("redirected", SLOT)]
    assert not place.subscriber.is_asking_for([A, B])


async def test_pings_are_answers_of_their_own(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """In any of the ways in which servers answer them: nothing else is taken for refused."""
    place.subscriber.answer_timeout, place.subscriber._ping_interval = 0.02, 0.01
    for answer in ((b"pong", b""), "NOPERM this user may not PING"):
        place.subscriber._pinged = -1.0
        cast(Any, place.subscriber.link).last_activity = asyncio.get_running_loop().time() - 1
        place.subscriber._check_silence()
        assert place.written()[-1:] == [[b"PING"]]
        await place.wants(A)
        place.wire.says(answer, yes(A))
        assert ("acknowledged", A) in place.ear.new()
        await place.leaves(A)
        place.wire.says(no(A))
    assert not caplog.records


def answer_ping(place: Place) -> None:
    place.wire.says((b"pong", b""))
    cast(Any, place.subscriber.link).last_activity = asyncio.get_running_loop().time()


async def test_a_server_that_stood_still(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known while it does not answer and for a while afterwards, since its slots may have been elsewhere."""
    monkeypatch.setattr(node_subscriber, "STILL_TIME", 0.02)
    cast(Any, place.subscriber.link).last_activity -= 40
    place.subscriber._check_silence()
    assert place.written() == [[b"PING"]]
    assert not place.subscriber.stood_still()
    await until(place.subscriber.stood_still)
    answer_ping(place)
    assert place.subscriber.stood_still()
    place.subscriber._stood_still_at -= 60
    assert not place.subscriber.stood_still()


async def test_a_blocked_event_loop_is_no_server_that_stood_still(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer has come long ago; the loop has not read it yet when the time for it is over."""
    monkeypatch.setattr(node_subscriber, "STILL_TIME", 0.02)
    loop = asyncio.get_running_loop()
    cast(Any, place.subscriber.link).last_activity -= 40
    place.subscriber._check_silence()
    # Timers come before what is read, as on uvloop.
    loop.call_later(0.02, loop.call_soon, answer_ping, place)
    time.sleep(0.06)  # noqa: ASYNC251 - the loop is blocked
    for _ in range(10):
        await asyncio.sleep(0)
        assert not place.subscriber.stood_still()
    assert cast(Any, place.subscriber.link).last_activity > place.subscriber._pinged


async def test_a_process_that_was_stopped_reads_before_it_gives_up(place: Place) -> None:
    """Also when it was stopped between the two checks that find the server silent."""
    subscriber, aborted = place.subscriber, list[Exception]()
    cast(Any, subscriber.link).abort = aborted.append
    now = asyncio.get_running_loop().time()
    cast(Any, subscriber.link).last_activity = now - 100
    subscriber._pinged = now - 90
    subscriber._check_silence()
    assert subscriber._silence._due is not None
    subscriber._silence._due -= 2 * LATE
    for _ in range(2):
        assert aborted == []
        subscriber._watch.cancel()  # type: ignore[union-attr]
        subscriber._check_silence()
    assert [str(error)[:6] for error in aborted] == ["silent"]


async def test_a_name_that_is_forbidden(place: Place) -> None:
    await place.wants(A, B)
    place.written()
    place.wire.says("NOPERM this user has no permissions to access one of the channels used as arguments")
    assert place.written() == [[b"SSUBSCRIBE", A], [b"SSUBSCRIBE", B]]
    place.wire.says("NOPERM this user has no permissions to access one of the channels used as arguments", yes(B))
    assert place.ear.new() == [("forbidden", A), ("acknowledged", B)]
    # It stays wanted, and is asked for again after a pause.
    await until(lambda: place.written() == [[b"SSUBSCRIBE", A]])
    place.wire.says(yes(A))
    assert place.ear.new() == [("acknowledged", A)]


# Gaps.


async def test_gaps() -> None:
    told: list[tuple[str, list[bytes]]] = []
    gaps = SubscriptionGaps(
        asyncio.get_running_loop(),
        lambda names: told.append(("lost", list(names))),
        lambda names: told.append(("back", list(names))),
    )
    for name in (A, B, C, X):
        gaps.begin(name)
    gaps.end(A)
    gaps.forget(B)
    gaps.lost([C])
    assert told == [("lost", [C])]
    gaps.lost([C])
    gaps.begin(C)
    await until(lambda: told[1:] == [("lost", [X])])
    gaps.end(X)
    gaps.end(C)
    gaps.lost([C])
    await asyncio.sleep(0)
    assert told[2:] == [("lost", [C]), ("back", [X])]
    gaps.stop()


# Outages.


class News:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def __call__(self, channels: Iterable[str], kind: str) -> None:
        self.told += [(channel, kind) for channel in channels]

    def new(self) -> list[tuple[str, str]]:
        told, self.told = self.told, []
        return sorted(told)


def test_outages_of_names() -> None:
    news = News()
    channels: dict[str, set[str]] = {"one": {"room"}, "two": {"room", "hall"}, "three": set()}
    groups: dict[str, dict[str, None]] = {"room": {"one": None, "two": None}, "hall": {"two": None}}
    outages = Outages(channels, groups, news, "down", "up")
    outages.lost(["room", "one", "hall"])
    assert news.new() == [("one", "down"), ("two", "down")]
    outages.back(["room"])
    assert news.new() == []
    outages.back(["one"])
    assert news.new() == [("one", "up")]
    outages.lost(["three", "gone"])
    assert news.new() == [("three", "down")]
    # The last member leaves the group that is still lost.
    del groups["hall"]
    outages.ended("hall")
    channels["two"].discard("hall")
    outages.left("two")
    assert news.new() == [("two", "up")]
    # Who comes meanwhile is told nothing, and whoever has a name again that was given up while it was lost neither.
    channels["four"] = {"hall"}
    groups["hall"] = {"four": None}
    outages.ended("three")
    outages.back(["three", "hall", "gone"])
    assert news.new() == []


@pytest.mark.parametrize(("down", "up"), [("down", None), (None, "up"), (None, None)])
def test_outages_of_which_only_one_half_is_told(down: str | None, up: str | None) -> None:
    news = News()
    outages = Outages({"one": set()}, {}, news, down, up)
    outages.lost(["one"])
    outages.back(["one"])
    assert news.new() == [("one", kind) for kind in (down, up) if kind is not None]


def test_an_outage_that_is_long_is_looked_through_once() -> None:
    """Each name that comes back is looked at alone: comparing each of 20,000 with all would take minutes."""
    news = News()
    channels: dict[str, set[str]] = {f"c{n}": {f"g{n}"} for n in range(20_000)}
    groups: dict[str, dict[str, None]] = {f"g{n}": {f"c{n}": None} for n in range(20_000)}
    outages = Outages(channels, groups, news, "down", "up")
    outages.lost([*channels, *groups])
    for name in [*channels, *groups]:
        outages.back([name])
    assert len(news.new()) == 40_000
