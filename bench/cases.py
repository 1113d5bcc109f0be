"""Everything that is measured, by name: which workload, with what, and in which number the result is told.

A case says what is done to a layer. `bench.sizes` says which layers take part in it and how much each is given.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Of each metric: how it is called in a table, and whether more of it is better.
METRICS = {
    "per_second": ("per s", True),
    "per_cpu_second": ("per CPU s", True),
    "p50_us": ("p50 µs", False),
    "p99_us": ("p99 µs", False),
    "cpu_per_minute": ("CPU s/min", False),
    "server_cpu_per_minute": ("server CPU s/min", False),
    "kib_per_consumer": ("KiB each", False),
    "connections": ("connections", False),
    "above_noop_us": ("µs above an empty call", False),
    "cpu_per_frame_us": ("CPU µs per frame", False),
    "cpu_each_us": ("CPU µs each, client and server", False),
    "clients_busy": ("of a core for the clients", False),
}


@dataclass(frozen=True)
class Case:
    """`kind` is how it has to be run: in the loop ("loop"), there with several layers ("layers"), with other processes
    ("crowd"), from a thread without a loop ("sync"), with the layer in Django's settings ("site"), the same under a
    dispatch of the contender's choice ("consumers"), or with it in the settings of a server with real clients
    ("sockets")."""

    title: str
    workload: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "per_second"
    kind: str = "loop"
    shards: int = 1
    # The servers of the Redis Cluster that it needs; 0 for none.
    cluster: int = 0
    encrypted: bool = False

    def function(self) -> Callable[..., Any]:
        module, _, name = self.workload.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(f"bench.{module}"), name)
        return function


def _case(title: str, workload: str, *, metric: str = "per_second", **parameters: Any) -> Case:
    return Case(title, workload, parameters, metric)


CASES: dict[str, Case] = {
    "roundtrip": _case("one at a time: send, then receive", "workloads:roundtrip", metric="p50_us"),
    "send-1": _case("send, 1 coroutine", "workloads:send", senders=1),
    "send-8": _case("send, 8 coroutines", "workloads:send", senders=8),
    "send": _case("send, 64 coroutines", "workloads:send", senders=64),
    "send-512": _case("send, 512 coroutines", "workloads:send", senders=512),
    "send_spread": _case("send, 64 coroutines, to 64 general channels", "workloads:send_spread", senders=64),
    "pairs-1": _case("send → receive, 1 × 1", "workloads:pairs", pairs=1),
    "pairs-10": _case("send → receive, 10 × 10", "workloads:pairs", pairs=10),
    "pairs": _case("send → receive, 50 × 50", "workloads:pairs", pairs=50),
    "pairs-1k": _case("send → receive, 50 × 50, messages of 1 kB", "workloads:pairs", pairs=50, text="x" * 1000),
    "pairs-500": _case("send → receive, 500 × 500", "workloads:pairs", pairs=500),
    "group-10": _case("group of 10, deliveries", "workloads:group", consumers=10),
    "group-100": _case("group of 100, deliveries", "workloads:group", consumers=100),
    "group": _case("group of 1,000, deliveries", "workloads:group", consumers=1000),
    "group-10000": _case("group of 10,000, deliveries", "workloads:group", consumers=10_000),
    **{
        f"crowd-{consumers}": Case(
            f"group of {consumers:,} in 4 processes, deliveries",
            "crowd:crowd_group",
            {"consumers": consumers},
            kind="crowd",
        )
        for consumers in (12, 100, 1000, 10_000)
    },
    "workers": Case("4 worker processes on a general channel, jobs", "crowd:crowd_workers", kind="crowd"),
    "rooms": _case("50 rooms of 20, deliveries", "workloads:rooms", rooms=50, consumers=20),
    "size-100": _case("10 × 10, messages of 100 B", "workloads:pairs", pairs=10, text="x" * 100),
    "size-1k": _case("10 × 10, messages of 1 kB", "workloads:pairs", pairs=10, text="x" * 1000),
    "size-10k": _case("10 × 10, messages of 10 kB", "workloads:pairs", pairs=10, text="x" * 10_000),
    "size-100k": _case("10 × 10, messages of 100 kB", "workloads:pairs", pairs=10, text="x" * 100_000),
    "encrypted": Case("send → receive, 10 × 10, encrypted", "workloads:pairs", {"pairs": 10}, encrypted=True),
    "shards-1": Case("send → receive, 48 × 48, 1 server", "workloads:pairs", {"pairs": 48}),
    "shards-2": Case("send → receive, 48 × 48, 2 shards", "workloads:pairs", {"pairs": 48}, shards=2),
    "shards-4": Case("send → receive, 48 × 48, 4 shards", "workloads:pairs", {"pairs": 48}, shards=4),
    "cluster-pairs": Case(
        "cluster of 3: send → receive, 50 × 50", "workloads:pairs", {"pairs": 50}, metric="per_cpu_second", cluster=3
    ),
    "spread": Case(
        "group of 200 on ten layers, deliveries", "workloads:spread", metric="per_cpu_second", kind="layers"
    ),
    "cluster-spread": Case(
        "cluster of 3: group of 200 on ten layers, deliveries",
        "workloads:spread",
        metric="per_cpu_second",
        kind="layers",
        cluster=3,
    ),
    "sync_group": Case(
        "async_to_sync(group_send), a group of 20", "synccalls:sync_group", metric="p50_us", kind="sync"
    ),
    "sync_native": Case(
        "layer.sync.group_send, a group of 20", "synccalls:sync_group", {"native": True}, metric="p50_us", kind="sync"
    ),
    "sync_threads": Case(
        "20 threads of synchronous group sends, a group of 20",
        "synccalls:sync_group",
        {"native": True, "threads": 20},
        kind="sync",
    ),
    "storm": _case("1,000 consumers connect at once, consumers", "workloads:storm"),
    "storm-500": _case("500 consumers connect at once, consumers", "workloads:storm", consumers=500),
    "waiting-50": _case("messages to 50 consumers that wait", "loads:waiting", consumers=50),
    "waiting-5000": _case("messages to 5,000 consumers that wait", "loads:waiting", consumers=5000),
    "idle": _case("500 consumers wait, nothing happens", "loads:idle", metric="cpu_per_minute", consumers=500),
    "site": Case("broadcast to 200 real consumers of Channels, frames", "chat:site_group", kind="site"),
    "consumers-room": Case(
        "broadcast to 200 consumers, queues instead of sockets",
        "inprocess:room",
        metric="cpu_per_frame_us",
        kind="consumers",
    ),
    "consumers-echo": Case("200 clients, frame → handler → frame, round trips", "inprocess:echo", kind="consumers"),
    "consumers-idle": Case(
        "2,000 consumers wait, memory", "inprocess:idle", metric="kib_per_consumer", kind="consumers"
    ),
    **{
        f"sockets-{name}": Case(
            f"{server}, {clients:,} WebSockets in one room, frames",
            "sockets:rooms",
            {"server": server, "clients": clients},
            kind="sockets",
        )
        for name, server, clients in (
            ("200", "uvicorn", 200),
            ("1000", "uvicorn", 1000),
            ("daphne", "daphne", 200),
            ("granian", "granian", 200),
        )
    },
    **{
        f"load-{rate}": _case(f"{rate:,} messages/s offered, way of one", "loads:offered", metric="p50_us", rate=rate)
        for rate in (250, 1000, 4000, 16_000, 64_000)
    },
}
