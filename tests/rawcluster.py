"""A cluster as a foreign process sees and writes it: what the suites' `raw` is, where they run on a cluster.

It has those of redis-py's methods that the tests use. A command about a key, or about a sharded channel, goes to the
node that has it; one about a server goes to all of them, and the answers are put together. `publish`, `pubsub` and
what counts subscribers mean sharded Pub/Sub here. Does not know the layers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tests.clusters import Cluster

#: Commands whose first argument is a key.
KEYED = {"delete", "exists", "expire", "get", "set", "ttl", "zadd", "zcard", "zcount", "zrange", "zrem", "zscore"}


class RawCluster:
    """A plain client of all nodes of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> Any:
        if name not in KEYED:
            raise AttributeError(f"{name!r} is nothing that a raw cluster can do")

        def call(key: str | bytes, *arguments: Any, **options: Any) -> Any:
            node = self._cluster.owner(key)
            answer = getattr(node.raw, name)(key, *arguments, **options)
            if name == "zadd":
                # As every sender does there: it is what receivers wait for.
                node.raw.execute_command("SPUBLISH", key, "")
            return answer

        return call

    def scan_iter(self, match: str, count: int | None = None) -> Iterator[bytes]:
        for node in self._cluster.primaries:
            yield from node.raw.scan_iter(match, count)

    def client_list(self) -> list[dict[str, Any]]:
        """All connections. Ids, which are those of one node, have its port in front; `node` is that port."""
        return [
            {**client, "id": f"{node.port}-{client['id']}", "node": node.port}
            for node in self._cluster.running
            for client in node.raw.client_list()
        ]

    def client_kill_filter(self, _id: str) -> int:
        """Kill a connection, by an id of `client_list`."""
        port, _, number = _id.partition("-")
        [node] = [node for node in self._cluster.running if node.port == int(port)]
        return int(node.raw.client_kill_filter(_id=number))

    def info(self, section: str) -> dict[str, Any]:
        """The numbers of all nodes, added up."""
        return _sum(node.raw.info(section) for node in self._cluster.running)

    def publish(self, name: str, data: bytes) -> int:
        return int(self._cluster.owner(name).raw.execute_command("SPUBLISH", name, data))

    def pubsub_channels(self, pattern: str = "*") -> list[bytes]:
        found = (node.raw.execute_command("PUBSUB SHARDCHANNELS", pattern) for node in self._cluster.running)
        return [name for names in found for name in names]

    def pubsub_numsub(self, *names: str) -> list[tuple[str, int]]:
        return [(name, sum(self._subscribers(name))) for name in names]

    def pubsub(self) -> RawSubscriber:
        return RawSubscriber(self._cluster)

    def pipeline(self, transaction: bool = False) -> RawPipeline:
        return RawPipeline(self)

    def _subscribers(self, name: str) -> Iterator[int]:
        for node in self._cluster.running:
            reply = node.raw.execute_command("PUBSUB SHARDNUMSUB", name)
            # Some releases of redis-py make pairs of it.
            yield int(reply[0][1] if isinstance(reply[0], (list, tuple)) else reply[1])


class RawSubscriber:
    """Subscriptions to sharded channels, told as if they were plain ones."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._by_node: dict[int, Any] = {}

    def __enter__(self) -> RawSubscriber:
        return self

    def __exit__(self, *error: object) -> None:
        for pubsub in self._by_node.values():
            pubsub.close()

    def subscribe(self, *names: str) -> None:
        for name in names:
            node = self._cluster.owner(name)
            pubsub = self._by_node.setdefault(node.port, None) or node.raw.pubsub()
            self._by_node[node.port] = pubsub
            pubsub.ssubscribe(name)

    def get_message(self, timeout: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout
        while True:
            for pubsub in self._by_node.values():
                message = pubsub.get_message(timeout=0.005)
                if message is not None:
                    return {**message, "type": {"smessage": "message"}.get(message["type"], message["type"][1:])}
            if time.monotonic() > deadline:
                return None


class RawPipeline:
    """Commands about keys, done one by one: what a test writes in one go for being quick."""

    def __init__(self, raw: RawCluster) -> None:
        self._raw = raw
        self._calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> RawPipeline:
            self._calls.append(lambda: getattr(self._raw, name)(*arguments, **options))
            return self

        return call

    def execute(self) -> list[Any]:
        return [call() for call in self._calls]


def _sum(infos: Iterator[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for info in infos:
        for name, value in info.items():
            if isinstance(value, dict):
                total[name] = _sum(iter([total.get(name, {}), value]))
            elif isinstance(value, (int, float)):
                total[name] = total.get(name, 0) + value
    return total
