"""One server of a Redis Cluster on this machine: how a test starts it, talks to it, stalls it and counts on it.

Uses redis-py's plain client, and no cluster client; does not know which others there are.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from bench.server import HOST, PortTaken, Server, free_port, start_server
from tests.places import raw_client

#: Milliseconds: a node is called dead after that, and a replica takes over somewhat later. No test may meet that by
#: chance, on a machine that stands still now and then; for those whose nodes die there is `QUICK`.
NODE_TIMEOUT = 3000
QUICK = ("--cluster-node-timeout", "500")

ARGUMENTS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT)),
    # However long it has been out of touch: on a busy machine that is soon too long.
    *("--cluster-replica-validity-factor", "0"),
    # A replica is known to the others once its primary's stream has moved, which a ping does on an idle one.
    *("--repl-diskless-sync-delay", "0", "--repl-timeout", "5", "--repl-ping-replica-period", "1"),
)


#: What stands among the arguments of all nodes for a free port, of each another one.
FREE_PORT = "<free port>"


class Node:
    """One server of a cluster, a plain client of it, and what the cluster calls it."""

    def __init__(self, arguments: Iterable[str], binary: str | None) -> None:
        self.server = _start(arguments, binary)
        self.raw: redis.Redis = raw_client(self.server.port)
        self.id = self("MYID").decode()

    def __call__(self, command: str, *arguments: Any) -> Any:
        """A CLUSTER command at this node."""
        return self.raw.execute_command(f"CLUSTER {command}", *arguments)

    def __repr__(self) -> str:
        return f"<node {self.port}>"

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def is_primary(self) -> bool:
        return bool(self.raw.info("replication")["role"] == "master")

    def replicates(self) -> bool:
        """Whether this is a replica that has what its primary has."""
        info = self.raw.info("replication")
        return bool(info["role"] == "slave" and info["master_link_status"] == "up")

    def view(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """What it believes: ranges of slots, and for each the port of the primary and then those of the replicas."""
        merged: dict[tuple[int, int], tuple[int, ...]] = {}
        for first, last, primary, *replicas in sorted(self("SLOTS")):
            ports = (primary[1], *sorted(replica[1] for replica in replicas))
            before = next(reversed(merged), (-1, -1))
            goes_on = before[1] == first - 1 and merged.get(before) == ports
            if goes_on:
                del merged[before]
            merged[before[0] if goes_on else first, last] = ports
        return merged

    def calls(self) -> dict[str, int]:
        """How often it has run each command since the last `forget_calls`."""
        stats = self.raw.info("commandstats")
        return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}

    def errors(self) -> dict[str, int]:
        """How often it has replied with each kind of error (MOVED, ASK, ...) since the last `forget_calls`."""
        stats = self.raw.info("errorstats")
        return {name.removeprefix("errorstat_"): stat["count"] for name, stat in stats.items()}

    def clients(self, name: str = "") -> list[dict[str, Any]]:
        """Its connections, or those with that client name; without that of this object."""
        return [
            client
            for client in self.raw.client_list(_type="normal") + self.raw.client_list(_type="pubsub")
            if client["name"] == name or (not name and int(client["id"]) != self.raw.client_id())
        ]

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """It does nothing and says nothing for a while, and nobody is told: its connections stay open."""
        pid = self.server.pid
        assert pid is not None, "a dead node cannot be stalled"
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def _start(arguments: Iterable[str], binary: str | None, attempts: int = 5) -> Server:
    """A server whose bus has a port of its own choice: the default is 10,000 further on, where there may be none."""
    for attempt in range(1, attempts + 1):
        try:
            own = [argument.replace(FREE_PORT, str(free_port())) for argument in arguments]
            return start_server(*ARGUMENTS, "--cluster-port", str(free_port()), *own, binary=binary)
        except PortTaken:
            if attempt == attempts:
                raise
    raise AssertionError("unreachable")


def known_to(node: Node) -> set[str]:
    """The ids of the nodes that it knows and has shaken hands with."""
    return {
        known["node_id"] for known in node("NODES").values() if known["connected"] and "handshake" not in known["flags"]
    }


def has_come_to(replica: Node, offset: int) -> bool:
    return bool(replica.raw.info("replication")["slave_repl_offset"] >= offset)


def bus_port(node: Node) -> int:
    return int(node.raw.config_get("cluster-port")["cluster-port"])


def each(node: Node, commands: list[tuple[Any, ...]]) -> None:
    """Several commands in one go."""
    with node.raw.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        pipeline.execute()
