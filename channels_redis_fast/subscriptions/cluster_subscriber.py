"""
The sharded subscriptions of a Redis Cluster in one event loop: each name at the server that has its slot now.

Takes the place that a ``Subscriber`` has on a single server. Has a ``NodeSubscriber`` for each server with a wanted
name, and decides to which a name belongs, again and again: when a server answers that a slot is not its own (MOVED, or
a ``sunsubscribe`` that nobody asked for), when the cluster's map has changed, and when a server cannot be reached. A
wait for an acknowledgement lasts through all of that. Knows names and their slots; which server has a slot is the
cluster's to know, what a name stands for and what is in a message is not known here.

Rules kept here:

- A name is wanted at one server at a time, and what any other sends about it is ignored: no message comes twice.
- A map does not take a slot back to the server that it has just come from: servers hear of a failover one after the
  other, the demoted one goes on to take subscriptions, and it passes on what the new one has sent already.
- What goes to one server in one tick leaves in one write, as one command for each slot.
- A slot that moves is no outage, unless its names are not acknowledged at the new server within ``MOVE_TIME``, or the
  old one turns out to have been gone by then, or to have stood still before. What is published at the new one before
  that is missed: what comes in one round trip to each of the two, as a rule.
- What a lost server had acknowledged is lost until it is acknowledged again, there or where its slots have gone.
  What is published meanwhile is missed, as Pub/Sub has it.
- Nobody waits longer for an acknowledgement than an answer may take, while no server can be asked for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any

from redis.exceptions import ConnectionError, MovedError

from ..cluster.cluster import MAP_INTERVAL, Cluster
from ..cluster.node import Node
from ..cluster.slots import Address, slot_of
from ..connection.backoff import delays
from ..connection.identity import UNKNOWN, ServerIdentity
from ..connection.link import Link
from ..loops import run_alone
from .acknowledgements import Acknowledgements
from .gaps import MOVE_TIME, SubscriptionGaps
from .node_subscriber import LEARNING_TIME, Names, NodeSubscriber
from .resumption import Resumable

#: Seconds between two looks at what waits, while something does.
LOOK_INTERVAL = 0.1


class Place:
    """A slot with names that are wanted, and where these are subscribed."""

    __slots__ = ("home", "left", "left_at", "names", "redirections", "slot", "trouble")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.names: dict[bytes, None] = {}
        self.home: NodeSubscriber | None = None
        #: Where they were before, and since when they are not.
        self.left: NodeSubscriber | None = None
        self.left_at = 0.0
        #: How often in a row servers have said that the slot is not there, and what was said last.
        self.redirections = 0
        self.trouble: Exception | None = None


class ClusterSubscriber(Resumable):
    """
    All sharded subscriptions in one event loop.

    ``on_message`` takes the name and the payload of each message. ``on_lost`` takes the names that were cut off and
    ``on_back`` those that are acknowledged again, each name once for each time. ``on_subscribed`` takes each name
    each time that it was acknowledged, also when nobody was cut off.
    """

    def __init__(
        self,
        cluster: Cluster,
        on_message: Callable[[bytes, bytes], None],
        on_lost: Callable[[Names], None],
        on_back: Callable[[Names], None],
        on_subscribed: Callable[[bytes], None] | None = None,
    ) -> None:
        self.loop = cluster.loop
        self._cluster = cluster
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._subscribers: dict[Address, NodeSubscriber] = {}
        self._places: dict[int, Place] = {}
        self._acknowledgements = Acknowledgements(cluster.loop)
        self._gaps = SubscriptionGaps(cluster.loop, on_lost, on_back)
        #: Servers that are asked to end subscriptions whose slots have moved: since when, on which socket, which.
        self._left: dict[NodeSubscriber, tuple[float, Link | None, list[bytes]]] = {}
        self._watch: asyncio.TimerHandle | None = None
        #: Slots whose server is to be asked for again, and when that is.
        self._unplaced: dict[int, None] = {}
        self._pauses = delays()
        self._retry: asyncio.TimerHandle | None = None
        self._doubt: asyncio.TimerHandle | None = None
        #: The timer that looks at the map again for slots which it has given back too soon.
        self._returning: asyncio.TimerHandle | None = None
        self._mapping: asyncio.Future[list[Any]] | None = None
        self._is_outdated = False
        cluster.follow(self._map_changed)

    @property
    def is_open(self) -> int:
        """How many sockets there are."""
        return sum(subscriber.is_open for subscriber in self._subscribers.values())

    def subscribe(self, name: bytes) -> asyncio.Future[None] | None:
        """
        Want a name. Returns None if the server that has it has acknowledged it, else the future of that.

        The future raises ``redis.exceptions.ConnectionError`` naming a host, and what a server says that refuses the
        name. The name stays wanted then: another caller that subscribed it may still want it.
        """
        slot = slot_of(name)
        place = self._places.get(slot)
        if place is None:
            place = self._places[slot] = Place(slot)
        place.names[name] = None
        if place.home is None:
            self._put(place)
        else:
            place.home.want(name)
        if place.home is not None and place.home.has(name):
            return None
        self._keep_watch()
        return self._acknowledgements.future(name)

    def unsubscribe(self, name: bytes) -> None:
        """No longer want a name. Waits for its acknowledgement end."""
        home = self._forget(name)
        if home is not None:
            home.unwant(name)
        self._acknowledgements.settle(name)

    def server_of(self, name: bytes) -> ServerIdentity:
        """Return who the server is that has a name, as far as it is known."""
        place = self._places.get(slot_of(name))
        return UNKNOWN if place is None or place.home is None else place.home.server_of(name)

    def renew(self, name: bytes) -> None:
        """Open the connection anew on which a name is subscribed, since its server is not what it was."""
        place = self._places.get(slot_of(name))
        if place is not None and place.home is not None:
            place.home.renew(name)

    def is_awaited(self, name: bytes) -> bool:
        """Return whether a caller waits for the acknowledgement of a name."""
        return self._acknowledgements.is_awaited(name)

    def wanted(self) -> Collection[bytes]:
        """Return the names that are to be subscribed."""
        return [name for place in self._places.values() for name in place.names]

    async def stop(self) -> None:
        """Close the sockets; what is wanted stays wanted."""
        for timer in (self._watch, self._retry, self._doubt, self._returning):
            if timer is not None:
                timer.cancel()
        self._watch = self._retry = self._doubt = self._returning = None
        if self._mapping is not None:
            self._mapping.remove_done_callback(self._asked_for_map)
            self._mapping.cancel()
            self._mapping = None
        self._gaps.stop()
        self._left.clear()
        await asyncio.gather(*(subscriber.stop() for subscriber in self._subscribers.values()))

    aclose = stop

    # What the connections report.

    def acknowledged(self, subscriber: NodeSubscriber, name: bytes) -> None:
        """Called when a server has acknowledged a name."""
        place = self._places.get(slot_of(name))
        if place is None or place.home is not subscriber or name not in place.names:
            return
        if place.redirections:
            place.redirections = 0
            self._pauses = delays()
        place.trouble = None
        self._gaps.end(name)
        self._acknowledgements.settle(name)
        if self._on_subscribed is not None:
            self._on_subscribed(name)

    def taken(self, subscriber: NodeSubscriber, name: bytes) -> None:
        """Called when a server has ended a subscription by itself; it was asked for again if it was wanted."""
        place = self._places.get(slot_of(name))
        if place is None or place.home is not subscriber or name not in place.names:
            return
        if subscriber.stood_still():
            # Its slots were elsewhere meanwhile, and what was published there is missed.
            self._gaps.missed(name)
        else:
            self._gaps.begin(name)
        self._cluster.doubt()
        if self._doubt is None:
            # A demoted server takes subscriptions on, and those that are asked for the map may not know better yet.
            self._doubt = self.loop.call_later(MAP_INTERVAL, self._doubt_again)

    def redirected(self, subscriber: NodeSubscriber, slot: int, error: Exception) -> None:
        """Called when a slot is not at a server that was asked for names in it."""
        place = self._places.get(slot)
        answer = str(error)
        if isinstance(error, MovedError):
            answer = f"slot {slot} is at {error.host}:{error.port}"
            self._cluster.moved(slot, error.host, error.port, subscriber.node)
        else:
            self._cluster.doubt()
        if place is None or place.home is not subscriber:
            return
        place.redirections += 1
        place.trouble = ConnectionError(f"{subscriber.dialer.label}: {answer}")
        if place.redirections == 1 and isinstance(error, MovedError):
            self._put(place)
        else:
            self._put_later(place)

    def forbidden(self, subscriber: NodeSubscriber, name: bytes, error: Exception) -> None:
        """Called when a server refuses a name. The server is asked again after a pause, unless the name is unwanted."""
        place = self._places.get(slot_of(name))
        if place is not None and place.home is subscriber and name in place.names:
            self._acknowledgements.fail(name, error)

    def lost(self, names: Names) -> None:
        """Called when a connection was lost, and what was acknowledged on it."""
        self._gaps.lost(names)
        self._cluster.doubt()

    def troubled(self) -> None:
        """Called when a server could not be reached, is silent, or was away: its slots may be elsewhere."""
        self._acknowledgements.attempt_failed()
        self._cluster.doubt()

    # Where names belong.

    def _put(self, place: Place) -> None:
        """Want the names of a slot where the slot is, as far as is known."""
        node = self._cluster.owner(place.slot)
        if node is None:
            if self._cluster.is_mapped:
                self._cluster.doubt()
                self._put_later(place)
            else:
                self._ask_for_map()
        home = place.home if node is None else self._at(node)
        if home is None:
            return
        old, place.home = place.home, home
        if old is not None and old is not home:
            place.left, place.left_at = old, self.loop.time()
            self._leave(old, place.names)
        for name in place.names:
            if home.want(name) and home is not old:
                # The server had it before, and the UNSUBSCRIBE was not written yet.
                self.acknowledged(home, name)

    def _leave(self, old: NodeSubscriber, names: Iterable[bytes]) -> None:
        """No longer want names at a server, since they are wanted at another."""
        stood_still = old.stood_still()
        for name in names:
            if old.has(name):
                if stood_still:
                    self._gaps.missed(name)
                else:
                    self._gaps.begin(name)
                    self._left.setdefault(old, (self.loop.time(), old.link, []))[2].append(name)
            old.unwant(name)
        self._keep_watch()

    def _put_later(self, place: Place) -> None:
        self._unplaced[place.slot] = None
        if self._retry is None:
            self._retry = self.loop.call_later(next(self._pauses), self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        unplaced, self._unplaced = self._unplaced, {}
        for slot in unplaced:
            place = self._places.get(slot)
            if place is not None:
                self._put(place)

    def _at(self, node: Node) -> NodeSubscriber:
        subscriber = self._subscribers.get(node.address)
        if subscriber is None:
            subscriber = self._subscribers[node.address] = NodeSubscriber(node, self, self._on_message)
        return subscriber

    def _forget(self, name: bytes) -> NodeSubscriber | None:
        """Forget a name; return where it was wanted."""
        self._gaps.forget(name)
        slot = slot_of(name)
        place = self._places.get(slot)
        if place is None or name not in place.names:
            return None
        del place.names[name]
        if not place.names:
            del self._places[slot]
        return place.home

    # The map.

    def _ask_for_map(self) -> None:
        if self._mapping is None:
            # Any slot's way is known when the map is.
            self._mapping = self._cluster.queue(0).call((b"PING",), repeatable=True)
            self._mapping.add_done_callback(self._asked_for_map)

    def _asked_for_map(self, answer: asyncio.Future[list[Any]]) -> None:
        self._mapping = None
        error = None if answer.cancelled() else answer.exception()
        if self._cluster.is_mapped:
            return
        if isinstance(error, Exception):
            self._acknowledgements.attempt_failed()
            self._acknowledgements.fail_all(error)
        for place in self._places.values():
            self._put_later(place)

    def _map_changed(self) -> None:
        # Perhaps many times in a tick: once for each slot that moves.
        if not self._is_outdated:
            self._is_outdated = True
            self.loop.call_soon(self._put_all)

    def _put_all(self) -> None:
        self._is_outdated = False
        for place in self._places.values():
            node = self._cluster.owner(place.slot)
            # A slot that two servers attribute to each other is not tried again at once, however often the map changes.
            if node is None or place.slot in self._unplaced:
                continue
            if place.home is None or (place.home.node.address != node.address and not self._comes_back(place, node)):
                self._put(place)
        self._let_go()

    def _comes_back(self, place: Place, node: Node) -> bool:
        """Return whether the map gives a slot to the server that it has just left, and where it is it is served."""
        home, left = place.home, place.left
        if home is None or left is None or left.node.address != node.address:
            return False
        until = place.left_at + LEARNING_TIME
        if self.loop.time() >= until or place.redirections or home.link is None or home.stood_still():
            return False
        if self._returning is None:
            self._returning = self.loop.call_at(until, self._look_at_map)
        return True

    def _look_at_map(self) -> None:
        self._returning = None
        self._cluster.doubt()
        self._map_changed()

    def _let_go(self) -> None:
        """Close the connections to servers that have no slots."""
        primaries = {node.address for node in self._cluster.primaries()}
        for address, subscriber in list(self._subscribers.items()):
            if address not in primaries and not subscriber.is_wanted and subscriber not in self._left:
                del self._subscribers[address]
                run_alone(self.loop, subscriber.stop)

    def _doubt_again(self) -> None:
        self._doubt = None
        self._cluster.doubt()

    # What waits, and what was lost.

    def _keep_watch(self) -> None:
        if self._watch is None:
            self._watch = self.loop.call_later(LOOK_INTERVAL, self._look)

    def _look(self) -> None:
        self._watch = None
        now = self.loop.time()
        for name in self._acknowledgements.overdue(now - self._cluster.answer_timeout):
            self._overdue(name)
        for old, (since, link, names) in list(self._left.items()):
            was_there = old.link is link and not old.is_asking_for(names)
            if was_there or old.link is not link or now - since > MOVE_TIME:
                del self._left[old]
                if not was_there:
                    self._were_lost(names)
        if self._acknowledgements.oldest() is not None or self._left:
            self._keep_watch()
        else:
            self._let_go()

    def _were_lost(self, names: Names) -> None:
        """Called when a server that has given up names was gone by then, since an unknown time."""
        places = [(name, self._places.get(slot_of(name))) for name in names]
        wanted = [(name, place.home) for name, place in places if place is not None and name in place.names]
        self._gaps.lost([name for name, _ in wanted])
        for name, home in wanted:
            if home is not None and home.has(name):
                self._gaps.end(name)

    def _overdue(self, name: bytes) -> None:
        place = self._places[slot_of(name)]
        home = place.home
        if home is not None and home.is_asking_for([name]) and home.is_at_work():
            return
        trouble = place.trouble or (None if home is None else home.trouble or home.overdue(name))
        self._acknowledgements.fail(
            name, trouble or ConnectionError(f"{self._cluster.seeds.label}: no server has slot {place.slot}")
        )
