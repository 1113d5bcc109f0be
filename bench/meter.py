"""The server's side of a measurement: its processor time and the commands it carried out.

Asks the servers with INFO, over connections of its own that are opened beforehand. Knows no layer and no workload.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import redis

# Ours, while we measure.
OURS = ("info", "client|list")


class ServerMeter:
    """The counters of all servers of a contender, added up: calls by command, and `cpu_us`."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._clients: list[Any] = [redis.Redis.from_url(url, single_connection_client=True) for url in urls]

    def __enter__(self) -> ServerMeter:
        self.read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()

    def read(self) -> Counter[str]:
        """What only grows. Commands inside of scripts count like others; INFO, which is ours, does not."""
        counters: Counter[str] = Counter()
        for client in self._clients:
            cpu = client.info("cpu")
            counters["cpu_us"] += round((cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6)
            for name, figures in client.info("commandstats").items():
                command = name.removeprefix("cmdstat_")
                if command not in OURS:
                    counters[command] += figures["calls"]
        return counters

    def connections(self) -> int:
        """Open connections other than ours, on all servers."""
        return sum(client.info("clients")["connected_clients"] - 1 for client in self._clients)
