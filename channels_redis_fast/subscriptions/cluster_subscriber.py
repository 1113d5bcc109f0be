"""
The sharded subscriptions of a Redis Cluster in one event loop: each name at the server that currently has its slot.

Takes the place of a single server's ``Subscriber``. Has a ``NodeSubscriber`` for each server with a wanted name. It
decides again where a name belongs when a server answers that a slot is not its own (MOVED, or an unsolicited
``sunsubscribe``), when the cluster's map has changed, and when a server cannot be reached. A wait for an
acknowledgement continues through all of that. Knows names and their slots. Does not know which server has a slot (the
cluster does), what a name stands for, or what is in a message.

Rules kept here:

- A name is wanted at one server at a time, and anything that another server sends about it is ignored, so no message is
  delivered twice.
- In a failover both servers of a slot may send a message, once the old one has ended a subscription, or its connection,
  and accepts it again as a replica. It is delivered once.
- A map does not return a slot to the server that it has just left. Servers hear of a failover one after the other; the
  demoted one still accepts subscriptions, and forwards messages that the new one has already sent.
- Everything for one server in one tick leaves in one write, as one command for each slot.
- A slot that moves is not an outage, unless its names are not acknowledged at the new server within ``MOVE_TIME``, or
  the old server turns out to have been gone by then or to have stood still before. Messages published at the new server
  before the acknowledgement are missed: usually those of one round trip to each of the two.
- What a lost server had acknowledged is lost until it is acknowledged again, there or at the servers that have its
  slots now. Messages published meanwhile are missed, as usual in Pub/Sub.
- While no server can be asked for a name, a wait for its acknowledgement lasts no longer than an answer may take.
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
from .repeats import RepeatFilter
from .resumption import Resumable

#: Seconds between checks of waiting names, while there are any.
LOOK_INTERVAL = 0.1


class Place:
    """A slot with wanted names, and where these are subscribed."""

    __slots__ = ("ended_at", "home", "left", "left_at", "names", "redirections", "slot", "trouble")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.names: dict[bytes, None] = {}
        self.home: NodeSubscriber | None = None
        #: Where the names were subscribed before, and when they were moved from there.
        self.left: NodeSubscriber | None = None
        self.left_at = 0.0
        #: The server on which subscriptions here have ended, by its own doing or with the connection, until it accepts
        #: one again: it may be a replica by then.
        self.ended_at: NodeSubscriber | None = None
        #: How often in a row servers have said that the slot is not there, and the last such reply.
        self.redirections = 0
        self.trouble: Exception | None = None


class ClusterSubscriber(Resumable):
    """
    All sharded subscriptions in one event loop.

    ``on_message`` takes the name and the payload of each message. ``on_lost`` takes the names that were cut off, and
    ``on_back`` those that are acknowledged again; each name once for each outage. ``on_subscribed`` takes a name each
    time it is acknowledged, even if it was not cut off.
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
        self._repeats = RepeatFilter(cluster.loop)
        #: Servers asked to end subscriptions whose slots have moved: since when, on which socket, and which names.
        self._left: dict[NodeSubscriber, tuple[float, Link | None, list[bytes]]] = {}
        self._watch: asyncio.TimerHandle | None = None
        #: Slots whose server is to be looked up again, and the timer for that.
        self._unplaced: dict[int, None] = {}
        self._pauses = delays()
        self._retry: asyncio.TimerHandle | None = None
        self._doubt: asyncio.TimerHandle | None = None
        #: The timer that checks the map again for slots that it returned too soon.
        self._returning: asyncio.TimerHandle | None = None
        self._mapping: asyncio.Future[list[Any]] | None = None
        self._is_outdated = False
        cluster.follow(self._map_changed)

    @property
    def is_open(self) -> int:
        """The number of sockets."""
        return sum(subscriber.is_open for subscriber in self._subscribers.values())

    def subscribe(self, name: bytes) -> asyncio.Future[None] | None:
        """
        Request a name. Returns None if the server that has it has acknowledged it, else a future of that.

        The future raises ``redis.exceptions.ConnectionError`` naming a host, and the error with which a server refuses
        the name. The name then stays wanted: another caller that subscribed it may still want it.
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
        """Stop wanting a name. Waits for its acknowledgement end."""
        home = self._forget(name)
        if home is not None:
            home.unwant(name)
        self._acknowledgements.settle(name)

    def server_of(self, name: bytes) -> ServerIdentity:
        """Return the identity of the server at which a name is subscribed, as far as it is known."""
        place = self._places.get(slot_of(name))
        return UNKNOWN if place is None or place.home is None else place.home.server_of(name)

    def renew(self, name: bytes) -> None:
        """Reopen the connection on which a name is subscribed, because its server's identity has changed."""
        place = self._places.get(slot_of(name))
        if place is not None and place.home is not None:
            place.home.renew(name)

    def is_awaited(self, name: bytes) -> bool:
        """Return whether a caller waits for the acknowledgement of a name."""
        return self._acknowledgements.is_awaited(name)

    def wanted(self) -> Collection[bytes]:
        """Return the names that should be subscribed."""
        return [name for place in self._places.values() for name in place.names]

    async def stop(self) -> None:
        """Close the sockets. What is wanted stays wanted."""
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
        # Not sooner: until its socket is closed, a server can still be demoted. Other timers that were started
        # meanwhile go on, for what is wanted again.
        self._repeats.stop()

    aclose = stop

    # Reported by the connections.

    def acknowledged(self, subscriber: NodeSubscriber, name: bytes) -> None:
        """Called when a server has acknowledged a name."""
        place = self._places.get(slot_of(name))
        if place is None or place.home is not subscriber or name not in place.names:
            return
        if place.redirections:
            place.redirections = 0
            self._pauses = delays()
        place.trouble = None
        if place.ended_at is not None:
            if place.ended_at is subscriber:
                self._repeats.may_be_replica(place.slot)
            place.ended_at = None
        self._gaps.end(name)
        self._acknowledgements.settle(name)
        if self._on_subscribed is not None:
            self._on_subscribed(name)

    def taken(self, subscriber: NodeSubscriber, name: bytes) -> None:
        """Called when a server has ended a subscription by itself. If still wanted, it was already requested again."""
        place = self._places.get(slot_of(name))
        if place is None or place.home is not subscriber or name not in place.names:
            return
        place.ended_at = subscriber
        if subscriber.stood_still():
            # Its slots were elsewhere meanwhile, and what was published there has been missed.
            self._gaps.missed(name)
        else:
            self._gaps.begin(name)
        self._cluster.doubt()
        if self._doubt is None:
            # A demoted server accepts subscriptions, and the servers that are asked for the map may not know better
            # yet.
            self._doubt = self.loop.call_later(MAP_INTERVAL, self._doubt_again)

    def redirected(self, subscriber: NodeSubscriber, slot: int, error: Exception) -> None:
        """Called when a server that was asked for names in a slot does not have the slot."""
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
        """Called when a server refuses a name. It is asked again after a pause, unless the name is no longer wanted."""
        place = self._places.get(slot_of(name))
        if place is not None and place.home is subscriber and name in place.names:
            self._acknowledgements.fail(name, error)

    def lost(self, names: Names) -> None:
        """Called when a connection was lost, with the names that were acknowledged on it."""
        for name in names:
            place = self._places.get(slot_of(name))
            if place is not None:
                place.ended_at = place.home
        self._gaps.lost(names)
        self._cluster.doubt()

    def troubled(self) -> None:
        """Called when a server could not be reached, is silent, or was away. Its slots may be elsewhere."""
        self._acknowledgements.attempt_failed()
        self._cluster.doubt()

    # Where names belong.

    def _put(self, place: Place) -> None:
        """Request the names of a slot at the server that has the slot, as far as is known."""
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
            self._repeats.moved(place.slot)
        for name in place.names:
            if home.want(name) and home is not old:
                # The server still has it from before: the UNSUBSCRIBE has not been written yet.
                self.acknowledged(home, name)

    def _leave(self, old: NodeSubscriber, names: Iterable[bytes]) -> None:
        """Stop wanting names at a server, since they are wanted at another."""
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
            subscriber = self._subscribers[node.address] = NodeSubscriber(node, self, self._on_message, self._repeats)
        return subscriber

    def _forget(self, name: bytes) -> NodeSubscriber | None:
        """Forget a name. Return the connection on which it was wanted."""
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
            # The way to any slot is known once the map is.
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
        # May be called many times in a tick: once for each slot that moves.
        if not self._is_outdated:
            self._is_outdated = True
            self.loop.call_soon(self._put_all)

    def _put_all(self) -> None:
        self._is_outdated = False
        for place in self._places.values():
            node = self._cluster.owner(place.slot)
            # If two servers attribute a slot to each other, it is not retried at once, however often the map changes.
            if node is None or place.slot in self._unplaced:
                continue
            if place.home is None or (place.home.node.address != node.address and not self._comes_back(place, node)):
                self._put(place)
        self._let_go()

    def _comes_back(self, place: Place, node: Node) -> bool:
        """
        Return whether the map gives a slot back to the server that it has just left, while its new server serves it.
        """
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
        """Close the connections to servers without slots."""
        primaries = {node.address for node in self._cluster.primaries()}
        for address, subscriber in list(self._subscribers.items()):
            if address not in primaries and not subscriber.is_wanted and subscriber not in self._left:
                del self._subscribers[address]
                run_alone(self.loop, subscriber.stop)

    def _doubt_again(self) -> None:
        self._doubt = None
        self._cluster.doubt()

    # Overdue waits, and lost names.

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
        """Called when a server that was asked to give up names turns out to be gone, since an unknown time."""
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
