"""Where names are wanted, as the map and the servers' words change: without a server, tick by tick.

`test_pubsub_moves` has the same with real ones, which rarely disagree for long enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError, TimeoutError

from channels_redis_fast.cluster.cluster import Cluster
from channels_redis_fast.subscriptions import cluster_subscriber, repeats
from channels_redis_fast.subscriptions.cluster_subscriber import ClusterSubscriber
from channels_redis_fast.subscriptions.node_subscriber import NodeSubscriber
from tests.cluster.test_pubsub_answers import MOVED, SLOT, A, B, FakeNode, Wire, message, no, wire_up, yes
from tests.core.helpers import until, within


class Server(FakeNode):
    """A server, the wire to it once there is one, and whether it can be reached."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.address = ("127.0.0.1", port)
        self.wire = Wire()


class FakeCluster:
    """As much of a cluster as who places names looks at."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.answer_timeout = 0.3
        self.is_mapped = True
        self.one, self.two = Server(7000), Server(7001)
        self.owners: dict[int, Server] = {}
        self.doubts = 0
        self.asked: list[asyncio.Future[Any]] = []
        self.seeds = type("Seeds", (), {"label": "cluster:127.0.0.1:7000"})

    def follow(self, follower: Callable[[], None]) -> None:
        self.changed = follower

    def owner(self, slot: int) -> Server | None:
        return self.owners.get(slot)

    def primaries(self) -> list[Server]:
        return list(dict.fromkeys(self.owners.values()))

    def moved(self, slot: int, host: str, port: int, asked: Any) -> None:
        self.owners[slot] = self.one if port == 7000 else self.two
        self.changed()

    def gives(self, server: Server) -> None:
        """The map says that the slot of the names is there."""
        self.owners[SLOT] = server
        self.changed()

    def doubt(self) -> None:
        self.doubts += 1

    def queue(self, slot: int) -> FakeCluster:
        return self

    def call(self, *commands: Any, repeatable: bool = False) -> asyncio.Future[Any]:
        self.asked.append(self.loop.create_future())
        return self.asked[-1]


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A cluster whose servers are all there: a connection is made in the step in which it is needed."""

    def connect(self: NodeSubscriber) -> None:
        if self.link is None:
            wire_up(self, cast(Server, self.node).wire)

    monkeypatch.setattr(NodeSubscriber, "connect", connect)
    return FakeCluster()


class Told:
    def __init__(self) -> None:
        self.lost: list[bytes] = []
        self.back: list[bytes] = []
        self.subscribed: list[bytes] = []
        self.messages: list[tuple[bytes, bytes]] = []

    def take(self, name: bytes, payload: bytes) -> None:
        self.messages.append((name, payload))


@pytest.fixture
async def told() -> Told:
    return Told()


@pytest.fixture
async def names(cluster: FakeCluster, told: Told) -> Any:
    names = ClusterSubscriber(
        cast(Cluster, cluster), told.take, told.lost.extend, told.back.extend, told.subscribed.append
    )
    yield names
    for timer in (
        names._watch,
        names._retry,
        names._doubt,
        names._returning,
        *(each._watch for each in names._subscribers.values()),
    ):
        if timer is not None:
            timer.cancel()
    names._gaps.stop()
    names._repeats.stop()


async def acknowledged(names: ClusterSubscriber, server: Server, *wanted: bytes) -> None:
    asked = [names.subscribe(name) for name in wanted]
    await until(lambda: len(server.wire.written) == 1)
    server.wire.says(*map(yes, wanted))
    for future in asked:
        assert future is not None
        await within(future)
    server.wire.written.clear()


async def test_here_there_and_back_in_one_step(cluster: FakeCluster, names: ClusterSubscriber, told: Told) -> None:
    """Nothing is said to anybody, and nobody waits for what nobody was asked for."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    place = names._places[SLOT]
    cluster.owners[SLOT] = cluster.two
    names._put(place)
    waiting = names.subscribe(A)
    assert waiting is not None
    cluster.owners[SLOT] = cluster.one
    names._put(place)
    await within(waiting)
    assert names.subscribe(A) is None
    assert cluster.one.wire.written == []
    # The map's word comes a step later, and says nothing new.
    await asyncio.sleep(0)
    assert cluster.one.wire.written == []


async def test_leaving_and_joining_in_one_step(cluster: FakeCluster, names: ClusterSubscriber) -> None:
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    names.unsubscribe(A)
    assert names.subscribe(A) is None
    await asyncio.sleep(0)
    assert cluster.one.wire.written == []


async def test_a_map_that_moves_a_slot(cluster: FakeCluster, names: ClusterSubscriber, told: Told) -> None:
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A, B)
    cluster.gives(cluster.two)
    await until(lambda: bool(cluster.two.wire.written))
    assert cluster.one.wire.written == [[b"SUNSUBSCRIBE", A, B]]
    assert cluster.two.wire.written == [[b"SSUBSCRIBE", A, B]]
    told.subscribed.clear()
    cluster.two.wire.says(yes(A), yes(B))
    cluster.one.wire.says(MOVED)
    assert told.subscribed == [A, B]
    assert names.subscribe(A) is None
    # The old one has no slots, and has answered: its connection is not needed.
    await until(lambda: [each.node for each in names._subscribers.values()] == [cluster.two])
    assert told.lost == told.back == []


async def test_a_map_that_has_not_heard_of_a_failover(
    cluster: FakeCluster, names: ClusterSubscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot does not go back to the demoted server, which would repeat what the new one has sent."""
    monkeypatch.setattr(cluster_subscriber, "LEARNING_TIME", 0.3)
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    cluster.gives(cluster.two)
    await until(lambda: cluster.two.wire.written == [[b"SSUBSCRIBE", A]])
    cluster.two.wire.says(yes(A))
    cluster.one.wire.says(no(A))
    cluster.one.wire.written.clear()
    cluster.gives(cluster.one)
    await asyncio.sleep(0.05)
    assert cluster.one.wire.written == []
    assert names.subscribe(A) is None
    # It is not: this is the map that holds.
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A]])


@pytest.mark.parametrize("trouble", ["moved", "lost", "silent"])
async def test_a_map_that_gives_a_slot_back_at_once(
    cluster: FakeCluster, names: ClusterSubscriber, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """Where the slot is not served, or may not be, the map is believed."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    cluster.gives(cluster.two)
    await until(lambda: cluster.two.wire.written == [[b"SSUBSCRIBE", A]])
    cluster.one.wire.says(no(A))
    cluster.one.wire.written.clear()
    now = names._subscribers[("127.0.0.1", 7001)]
    if trouble == "moved":
        cluster.two.wire.says(f"MOVED {SLOT} 127.0.0.1:7000")
    elif trouble == "lost":
        cluster.two.wire.says(yes(A))
        now.link = None
        cluster.gives(cluster.one)
    else:
        cluster.two.wire.says(yes(A))
        now._stood_still_at = cluster.loop.time()
        cluster.gives(cluster.one)
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A]])


async def test_servers_that_say_each_other(cluster: FakeCluster, names: ClusterSubscriber) -> None:
    """Between two servers that have not heard the same, a name is not asked for as fast as they answer."""
    cluster.answer_timeout = 30
    cluster.gives(cluster.one)
    waiting = names.subscribe(A)
    assert waiting is not None
    asked: list[float] = []

    def answer() -> None:
        for server, other in ((cluster.one, cluster.two), (cluster.two, cluster.one)):
            if server.wire.written:
                asked.extend([cluster.loop.time()] * len(server.wire.written))
                server.wire.written.clear()
                server.wire.says(f"MOVED {SLOT} 127.0.0.1:{other.address[1]}")

    async def answer_again_and_again() -> None:
        while len(asked) < 9:
            answer()
            await asyncio.sleep(0)

    await within(answer_again_and_again())
    # Each answer takes a step of the event loop, of which there have been thousands.
    assert asked[8] - asked[0] > 0.25
    await until(lambda: bool(cluster.one.wire.written or cluster.two.wire.written))
    server = cluster.one if cluster.one.wire.written else cluster.two
    server.wire.says(yes(A))
    await within(waiting)


async def test_a_move_that_takes_no_second(cluster: FakeCluster, names: ClusterSubscriber, told: Told) -> None:
    """Pushed off, asked again, sent on: three steps, and where MOVED sends it it is asked for at once."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    cluster.one.wire.says(no(A))
    assert cluster.doubts == 1
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A]])
    cluster.one.wire.says(MOVED)
    await asyncio.sleep(0)
    assert cluster.two.wire.written == [[b"SSUBSCRIBE", A]]
    cluster.two.wire.says(yes(A))
    assert told.lost == []
    # A server that was demoted says nothing of that to who asks it again: the map is looked at once more.
    await until(lambda: cluster.doubts >= 2)


async def failed_over(cluster: FakeCluster, names: ClusterSubscriber, *sent: bytes) -> None:
    """Have the first server demoted, which then still sends some messages, and the second one take its place."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A, B)
    cluster.one.wire.says(message(A, b"before"), no(A), no(B))
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A, B]])
    cluster.one.wire.says(yes(A), yes(B), *(message(A, payload) for payload in sent))
    cluster.gives(cluster.two)
    await until(lambda: cluster.two.wire.written == [[b"SSUBSCRIBE", A, B]])
    cluster.two.wire.says(yes(A), yes(B))


async def test_a_new_primary_repeats_what_the_demoted_one_has_sent(
    cluster: FakeCluster, names: ClusterSubscriber, told: Told
) -> None:
    """As often as that one has sent it; and on another name it is another message."""
    await failed_over(cluster, names, b"one", b"two", b"two")
    told.messages.clear()
    for payload in (b"two", b"two", b"two", b"new", b"new", b"before"):
        cluster.two.wire.says(message(A, payload))
    cluster.two.wire.says(message(B, b"one"), message(A, b"one"))
    assert told.messages == [(A, b"two"), (A, b"new"), (A, b"new"), (A, b"before"), (B, b"one")]


async def test_a_primary_that_comes_back_as_a_replica(
    cluster: FakeCluster, names: ClusterSubscriber, told: Told
) -> None:
    """It is subscribed to again before the map says so, and its new primary repeats what it has sent."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    [subscriber] = names._subscribers.values()
    subscriber.link = None
    subscriber._lost_at = 0.0
    subscriber.after_loss()
    await until(lambda: bool(cluster.one.wire.written))
    cluster.one.wire.says(yes(A), message(A, b"one"))
    cluster.gives(cluster.two)
    await until(lambda: cluster.two.wire.written == [[b"SSUBSCRIBE", A]])
    cluster.two.wire.says(yes(A), message(A, b"one"), message(A, b"two"))
    assert told.messages == [(A, b"one"), (A, b"two")]


async def test_a_message_equal_to_one_that_was_sent_long_before(
    cluster: FakeCluster, names: ClusterSubscriber, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "REPEAT_TIME", 0.05)
    await failed_over(cluster, names, b"one", b"two")
    told.messages.clear()
    cluster.two.wire.says(message(A, b"one"))
    assert told.messages == []
    await until(lambda: not names._repeats.slots)
    cluster.two.wire.says(message(A, b"two"))
    assert told.messages == [(A, b"two")]
    assert not names._repeats._counts
    assert names._repeats._timer is None


async def test_repeats_of_one_failover_are_not_those_of_the_next(
    cluster: FakeCluster, names: ClusterSubscriber, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is changing hands meanwhile: what the second server sent long before is no original any more."""
    await failed_over(cluster, names, b"tick")
    cluster.two.wire.says(*[message(A, b"tick")] * 20)
    names._repeats.may_be_replica(SLOT + 1)
    now = cluster.loop.time()
    monkeypatch.setattr(cluster.loop, "time", lambda: now + 0.9)
    names._repeats._look()
    assert list(names._repeats.slots) == [SLOT + 1]
    names._repeats.may_be_replica(SLOT)
    told.messages.clear()
    cluster.two.wire.says(message(A, b"tick"))
    subscriber = names._subscribers[cluster.one.address]
    assert [names._repeats.is_new(subscriber, A, b"tick") for _ in range(3)] == [False, True, True]
    assert told.messages == [(A, b"tick")]


async def test_a_repeat_comes_soon(
    cluster: FakeCluster, names: ClusterSubscriber, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    await failed_over(cluster, names, b"one", b"two", b"two")
    told.messages.clear()
    now = cluster.loop.time()
    names._repeats.may_be_replica(SLOT)
    cluster.two.wire.says(message(A, b"one"))
    monkeypatch.setattr(cluster.loop, "time", lambda: now + repeats.REPEAT_TIME + 0.1)
    cluster.two.wire.says(message(A, b"one"), message(A, b"two"))
    assert told.messages == [(A, b"one"), (A, b"two")]
    assert len(names._repeats._came) == 2


async def test_no_repeats_after_the_end(cluster: FakeCluster, names: ClusterSubscriber) -> None:
    """Even if the server gives up a slot while its socket is being closed."""
    await failed_over(cluster, names, b"one")
    stopping = asyncio.ensure_future(names.stop())
    names._repeats.may_be_replica(SLOT)
    await within(stopping)
    assert names._repeats._timer is None
    assert not names._repeats.slots


async def test_repeats_are_remembered_up_to_a_number(
    cluster: FakeCluster, names: ClusterSubscriber, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "MAX_MESSAGES", 2)
    await failed_over(cluster, names, b"one", b"two", b"three")
    told.messages.clear()
    for payload in (b"three", b"two", b"one"):
        cluster.two.wire.says(message(A, payload))
    assert told.messages == [(A, b"one")]


async def test_a_slot_that_moves_to_another_shard_has_no_repeats(
    cluster: FakeCluster, names: ClusterSubscriber, told: Told
) -> None:
    """Nor if it comes back. Its server does not accept the subscription again."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    cluster.one.wire.says(message(A, b"tick"), no(A))
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A]])
    cluster.one.wire.says(MOVED)
    await asyncio.sleep(0)
    cluster.two.wire.says(yes(A), message(A, b"tick"), message(A, b"tick"))
    assert told.messages == [(A, b"tick")] * 3
    cluster.one.wire.written.clear()
    cluster.two.wire.says(no(A))
    await until(lambda: cluster.two.wire.written == [[b"SSUBSCRIBE", A]] * 2)
    cluster.two.wire.says(f"MOVED {SLOT} 127.0.0.1:7000")
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A]])
    cluster.one.wire.says(yes(A), message(A, b"tick"))
    assert told.messages == [(A, b"tick")] * 4
    assert not names._repeats.slots


async def test_a_lost_connection(cluster: FakeCluster, names: ClusterSubscriber, told: Told) -> None:
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    pending = names.subscribe(B)
    assert pending is not None
    [subscriber] = names._subscribers.values()
    subscriber.link = None
    subscriber._lost_at = 0.0
    subscriber.after_loss()
    assert cluster.doubts == 1
    # Of B nobody has ever been told that it is there.
    assert told.lost == [A]
    await until(lambda: bool(cluster.one.wire.written))
    cluster.one.wire.says(yes(A), yes(B))
    await within(pending)
    await asyncio.sleep(0)
    assert told.back == [A]


async def test_no_map_and_then_one(cluster: FakeCluster, names: ClusterSubscriber) -> None:
    """Who waits hears why there is none, each time; what stays wanted is placed when there is one."""
    cluster.is_mapped = False
    for _ in range(2):
        waiting = names.subscribe(A)
        assert waiting is not None
        await until(lambda: bool(cluster.asked) and not cluster.asked[-1].done())
        cluster.asked[-1].set_exception(ConnectionError("127.0.0.1:7000 refused"))
        with pytest.raises(ConnectionError, match="7000 refused"):
            await within(waiting)
    waiting = names.subscribe(B)
    assert waiting is not None
    cluster.is_mapped = True
    cluster.gives(cluster.two)
    await until(lambda: bool(cluster.two.wire.written))
    assert cluster.two.wire.written == [[b"SSUBSCRIBE", A, B]]
    cluster.two.wire.says(yes(A), yes(B))
    await within(waiting)


async def test_a_slot_of_nobody(cluster: FakeCluster, names: ClusterSubscriber) -> None:
    waiting = names.subscribe(A)
    assert waiting is not None
    with pytest.raises(ConnectionError, match=f"no server has slot {SLOT}"):
        await within(waiting)
    assert cluster.doubts > 0
    cluster.gives(cluster.one)
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A]])


async def test_a_server_that_is_slow_is_waited_for(cluster: FakeCluster, names: ClusterSubscriber) -> None:
    """It acknowledges one name after the other: the answer may come late."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, B)
    waiting = names.subscribe(A)
    assert waiting is not None
    begin = cluster.loop.time()
    await until(lambda: cluster.loop.time() - begin > 2 * cluster.answer_timeout)
    assert not waiting.done()
    cluster.one.wire.says(yes(A))
    await within(waiting)


async def test_a_server_that_acknowledges_nothing(cluster: FakeCluster, names: ClusterSubscriber) -> None:
    """Whatever else it says, who waits hears it; the name stays wanted."""
    cluster.gives(cluster.one)
    waiting = names.subscribe(A)
    assert waiting is not None
    with pytest.raises(TimeoutError, match=r"127\.0\.0\.1:7000: SSUBSCRIBE of '\{one\}a' was not acknowledged"):
        await within(waiting)
    assert names.subscribe(A) is not None
    cluster.one.wire.says(yes(A))
    assert names.subscribe(A) is None


async def test_a_server_that_stood_still_before_the_slot_moved(
    cluster: FakeCluster, names: ClusterSubscriber, told: Told
) -> None:
    """Its replica was promoted meanwhile: what was published there is missed, which is told of."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A, B)
    names._subscribers[("127.0.0.1", 7000)]._stood_still_at = cluster.loop.time()
    cluster.one.wire.says(no(A))
    cluster.gives(cluster.two)
    await until(lambda: bool(cluster.two.wire.written))
    cluster.two.wire.says(yes(A), yes(B))
    await until(lambda: sorted(told.back) == [A, B])
    # At once, as one channel may be cut off from both.
    assert told.lost == [A, B]
    await until(lambda: not names._left)
    assert told.lost == [A, B]


async def test_a_name_that_is_forbidden_for_a_while(cluster: FakeCluster, names: ClusterSubscriber, told: Told) -> None:
    """It was subscribed, and the connection was lost: it is told to be back when it is."""
    cluster.gives(cluster.one)
    await acknowledged(names, cluster.one, A)
    names.lost([A])
    subscriber = names._subscribers[("127.0.0.1", 7000)]
    subscriber._forget_socket()
    subscriber.want(A)
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A]])
    cluster.one.wire.says("NOPERM this user has no permissions to access one of the channels used as arguments")
    await until(lambda: cluster.one.wire.written == [[b"SSUBSCRIBE", A]] * 2)
    assert told.back == []
    cluster.one.wire.says(yes(A))
    await until(lambda: told.back == [A])
