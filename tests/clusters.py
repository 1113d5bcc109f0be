"""Real Redis Clusters on this machine: how a test starts one, breaks it, reshards it and counts on it.

Starts processes; waits for what the nodes say, never for time alone. Uses redis-py's plain client, one for each node,
and no cluster client; does not know the layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any

from tests.clusternodes import FREE_PORT, QUICK, Node, bus_port, each, has_come_to, known_to
from tests.places import wait_until

__all__ = ["FREE_PORT", "QUICK", "SLOTS", "Cluster", "Node"]

SLOTS = 16384


class Cluster:
    """
    A cluster of so many primaries, each with so many replicas, which share the slots evenly.

    Use it as a context manager. `binary` names a server as `bench.server.find_binary` does; with `*QUICK` it soon
    notices that a node has gone. It takes about two and a half seconds to start: a primary waits two seconds before it
    calls itself a part of a cluster.
    """

    def __init__(self, primaries: int = 3, replicas: int = 0, *arguments: str, binary: str | None = None) -> None:
        self._sizes = primaries, replicas
        self._arguments = arguments
        self._binary = binary
        self._stack = ExitStack()
        self.nodes: list[Node] = []

    def __enter__(self) -> Cluster:
        try:
            self._form()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    # What it looks like.

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [node.address for node in self.nodes]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    @property
    def host(self) -> dict[str, Any]:
        """The entry of `hosts` for this cluster."""
        return {"cluster": self.urls}

    @property
    def url(self) -> str:
        """One node: tests that say `hosts=[server.url]` mean this cluster."""
        return self.nodes[0].url

    def hosts(self, hosts: list[Any]) -> list[Any]:
        """The same `hosts`, but for the entry of this cluster where one of its nodes was named as a plain host."""
        return [self._instead_of(host) for host in hosts]

    def _instead_of(self, host: Any) -> Any:
        options = host if isinstance(host, dict) else {"address": host}
        address = options.get("address")
        named = [url for url in self.urls if isinstance(address, str) and address.startswith(url)]
        if not named:
            return host
        query = str(address).removeprefix(named[0])
        rest = {name: value for name, value in options.items() if name != "address"}
        return {"cluster": [url + query for url in self.urls], **rest}

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.server.running]

    @property
    def primaries(self) -> list[Node]:
        """The running nodes that are primaries of some slots, in the order of these."""
        ports = dict.fromkeys(ports[0] for ports in self._settled_view().values())
        by_port = {node.port: node for node in self.nodes}
        return [by_port[port] for port in ports]

    def replicas_of(self, primary: Node) -> list[Node]:
        ports = {port for ports in self._settled_view().values() if ports[0] == primary.port for port in ports[1:]}
        return [node for node in self.nodes if node.port in ports]

    def slots_of(self, primary: Node) -> list[int]:
        view = self._settled_view()
        return [n for (first, last), ports in view.items() if ports[0] == primary.port for n in range(first, last + 1)]

    def owner(self, key: str | bytes | int) -> Node:
        """The primary of a key, or of a slot."""
        slot = key if isinstance(key, int) else self.slot(key)
        [port] = [ports[0] for (first, last), ports in self._settled_view().items() if first <= slot <= last]
        return next(node for node in self.nodes if node.port == port)

    def slot(self, key: str | bytes) -> int:
        return int(self.running[0]("KEYSLOT", key))

    # What happens to it.

    def kill(self, node: Node) -> None:
        """SIGKILL; nothing is waited for."""
        node.server.kill()

    def until_promoted(self, dead: Node, replica: Node) -> None:
        """Return when the replica of a primary that was killed has its place, and every node knows."""
        wait_until(lambda: replica.is_primary, f"{replica} takes the place of {dead}")
        self.settle()

    def kill_primary(self, node: Node) -> Node:
        """SIGKILL; returns its replica when that has its place and every node knows."""
        [replica] = self.replicas_of(node)
        self.kill(node)
        self.until_promoted(node, replica)
        return replica

    def failover(self, node: Node) -> Node:
        """CLUSTER FAILOVER: a primary and its replica change places, and nothing is lost. Returns the new primary."""
        [replica] = self.replicas_of(node)
        # It is refused, or given up after five seconds, when anything else is going on: then asked for again.
        while not replica.is_primary:
            replica("FAILOVER")
            try:
                wait_until(lambda: replica.is_primary, f"{replica} takes the place of {node}", 6.0)
            except AssertionError:
                continue
        self.settle()
        return replica

    def replicated(self) -> None:
        """Return when each replica has everything that its primary has acknowledged up to now."""
        for node in self.primaries:
            offset = node.raw.info("replication")["master_repl_offset"]
            for replica in self.replicas_of(node):
                wait_until(partial(has_come_to, replica, offset), f"{replica} has what {node} has")

    def revive(self, node: Node) -> None:
        """Start a node that was killed again; returns when it is a replica of the one that took its place, or back."""
        node.server.restart()
        self.settle()

    def add_primary(self) -> Node:
        """A node joins, without slots; returns when it would take some."""
        [node] = self._join([self._new_node()])
        wait_until(lambda: self._is_settled(node), f"{node} is a part of the cluster")
        return node

    def add_replica(self, primary: Node) -> Node:
        [node] = self._join([self._new_node()])
        self._replicate(node, primary)
        self.settle()
        return node

    def begin_move(self, source: Node, target: Node, slots: Iterable[int]) -> None:
        """Open slots: new keys of theirs are made at the target (ASK) from now on, the others stay at the source."""
        slots = list(slots)
        # Whoever gets slots without knowing how new the claims of the others are may make an older one, and lose them.
        wait_until(self._agree_on_epochs, "all nodes know the same epochs")
        self._open(source, target, slots)

    def _open(self, source: Node, target: Node, slots: list[int]) -> None:
        each(target, [("CLUSTER SETSLOT", slot, "IMPORTING", source.id) for slot in slots])
        each(source, [("CLUSTER SETSLOT", slot, "MIGRATING", target.id) for slot in slots])

    def move_keys(self, source: Node, target: Node, slots: Iterable[int]) -> int:
        """Move what there is in the slots; returns how many keys that was."""
        moved = 0
        for slot in slots:
            while keys := source("GETKEYSINSLOT", slot, 100):
                source.raw.execute_command("MIGRATE", *target.address, "", 0, 5000, "KEYS", *keys)
                moved += len(keys)
        return moved

    def finish_move(self, source: Node, target: Node, slots: Iterable[int]) -> None:
        """The slots are the target's from now on. The target learns it first: nobody may find them to be nobody's."""
        others = [node for node in self.running if node not in (source, target) and node.is_primary]
        for node in (target, source, *others):
            each(node, [("CLUSTER SETSLOT", slot, "NODE", target.id) for slot in slots])

    def move_slots(self, source: Node, target: Node, slots: Iterable[int], at_once: int = 20) -> int:
        """Reshard while everything goes on, as `redis-cli --cluster reshard` does; returns how many keys were moved."""
        slots, moved = list(slots), 0
        wait_until(self._agree_on_epochs, "all nodes know the same epochs")
        for start in range(0, len(slots), at_once):
            some = slots[start : start + at_once]
            self._open(source, target, some)
            moved += self.move_keys(source, target, some)
            self.finish_move(source, target, some)
        return moved

    def move_in_one_step(self, source: Node, target: Node, slots: Iterable[int]) -> None:
        """CLUSTER MIGRATESLOTS, which Valkey has since 9.0; of the slots those that are the source's."""
        its = sorted(set(slots) & set(self.slots_of(source)))
        for slot in its:
            source("MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target.id)
        wait_until(lambda: all(self.owner(slot) is target for slot in its), f"{target} has the slots")
        self.settle()

    def settle(self) -> None:
        """Return when all running nodes are of one opinion, all slots are served and all replicas are in touch."""
        wait_until(lambda: all(self._is_settled(node) for node in self.running), "all nodes are of one opinion")
        wait_until(self._is_of_one_opinion, "all nodes know the same slots and replicas")

    # What it did.

    def forget_calls(self) -> None:
        for node in self.running:
            node.raw.config_resetstat()

    def calls(self, *names: str) -> dict[int, int]:
        """How often each node, by its port, has run these commands, or any."""
        return {
            node.port: sum(count for name, count in node.calls().items() if not names or name in names)
            for node in self.running
        }

    def redirections(self) -> int:
        """How many commands were answered by MOVED or ASK since the last `forget_calls`."""
        return sum(node.errors().get(name, 0) for node in self.running for name in ("MOVED", "ASK"))

    # How it comes about.

    def _new_node(self) -> Node:
        node = Node(self._arguments, self._binary)
        self._stack.callback(node.server.stop)
        self._stack.callback(node.raw.close)
        self.nodes.append(node)
        return node

    def _form(self) -> None:
        primaries, replicas = self._sizes
        count = primaries * (1 + replicas)
        with ThreadPoolExecutor(count) as threads:
            new = list(threads.map(lambda _: self._new_node(), range(count)))
        # The epochs differ from the start, else the nodes have to find out that they do not.
        for epoch, node in enumerate(new, 1):
            node("SET-CONFIG-EPOCH", epoch)
        bounds = [SLOTS * number // primaries for number in range(primaries + 1)]
        for node, (first, after) in zip(new, pairwise(bounds), strict=False):
            node("ADDSLOTSRANGE", first, after - 1)
        self._join(new)
        for number, node in enumerate(new[primaries:]):
            self._replicate(node, new[number % primaries])
        self.settle()

    def _join(self, new: list[Node]) -> list[Node]:
        for node in new:
            for other in self.nodes:
                if other is not node:
                    node("MEET", *other.address, bus_port(other))
        everybody = {node.id for node in self.running}
        wait_until(lambda: all(known_to(node) >= everybody for node in self.running), "all nodes know each other")
        return new

    def _replicate(self, node: Node, primary: Node) -> None:
        node("REPLICATE", primary.id)

    def _is_settled(self, node: Node) -> bool:
        if node("INFO")["cluster_state"] != "ok":
            return False
        return node.is_primary or node.replicates()

    def _is_of_one_opinion(self) -> bool:
        view = self._settled_view()
        ports = {port for ports in view.values() for port in ports}
        # A primary without slots is in nobody's list of them; a replica is once it has told how far it is.
        here = {node.port for node in self.running if node.port in ports or not node.is_primary}
        return ports == here and all(node.view() == view for node in self.running)

    def _agree_on_epochs(self) -> bool:
        epochs = [{known["node_id"]: known["epoch"] for known in node("NODES").values()} for node in self.running]
        return all(each == epochs[0] for each in epochs)

    def _settled_view(self) -> dict[tuple[int, int], tuple[int, ...]]:
        return self.running[0].view()
