"""Which layers take part in each case, and how much each is given: by case, then by layer.

Counts are messages per sender, broadcasts, round trips, storms or seconds. Rates are compared, not totals, so they need
not be equal.
"""

from __future__ import annotations

_LAYERS = ("fast", "upstream", "fast-pubsub", "upstream-pubsub", "memory")


def _sizes(*counts: int, **more: int) -> dict[str, int]:
    """For `_LAYERS` in this order, 0 for one that does not take part; the floors by name."""
    sizes = {layer: count for layer, count in zip(_LAYERS, counts, strict=True) if count}
    return {**sizes, **{name.replace("_", "-"): count for name, count in more.items()}}


def _sites(
    ours: int, core: int, pubsub_ours: int, pubsub: int, direct: int, loop: int = 0, **more: int
) -> dict[str, int]:
    """For a site on `_LAYERS` under Channels' dispatch, and on each of ours under ours, and with a loop."""
    sizes = _sizes(ours, core, pubsub_ours, pubsub, 0, **more)
    for layer in ("fast", "fast-pubsub"):
        counts = {"direct": direct, "loop": loop}
        sizes.update({f"{layer}-{dispatch}": count for dispatch, count in counts.items() if count})
    return sizes


# Upstream's core gets 60 messages a pair: at 100 it collapses (170/s in all), and the ratio would flatter us. Others
# and Channels' in-memory layer's groups get less elsewhere only because they would take long; ours gets enough to be
# measurable, a second or so. Channels' in-memory layer is not
# where there are thousands of channels: it looks at all of them
# in each send, which takes it minutes.
FULL: dict[str, dict[str, int]] = {
    "roundtrip": _sizes(
        3000, 1000, 3000, 2000, 5000, floor=3000, floor_pubsub=3000, floor_tasks=5000, fast_memory=5000
    ),
    "send-1": _sizes(3000, 800, 3000, 1000, 8000, floor=3000, floor_pubsub=3000, fast_memory=8000),
    "send-8": _sizes(1500, 150, 1500, 200, 2000, floor=1500, floor_pubsub=1500, fast_memory=2000),
    "send": _sizes(1500, 60, 1000, 100, 1000, floor=400, floor_pubsub=400, fast_memory=1000),
    "send-512": _sizes(60, 6, 60, 10, 60, floor=60, floor_pubsub=60, fast_memory=60),
    "send_spread": _sizes(400, 60, 400, 100, 400, fast_memory=400),
    "pairs-1": _sizes(3000, 500, 3000, 1000, 5000, floor_pubsub=3000, floor_tasks=10000, fast_memory=5000),
    "pairs-10": _sizes(1000, 100, 1000, 200, 1000, floor_pubsub=1000, floor_tasks=3000, fast_memory=1000),
    "pairs": _sizes(1500, 60, 1500, 100, 1000, floor_pubsub=400, floor_tasks=4000, fast_memory=1500),
    "pairs-1k": _sizes(600, 60, 600, 100, 600, fast_memory=600),
    "pairs-500": _sizes(60, 4, 60, 6, 60, floor_pubsub=60, floor_tasks=120, fast_memory=60),
    "group-10": _sizes(500, 150, 500, 300, 400, floor_tasks=3000, fast_memory=3000),
    "group-100": _sizes(200, 50, 200, 100, 50, floor_tasks=1000, fast_memory=1000),
    "group": _sizes(300, 20, 300, 80, 8, floor_tasks=300, fast_memory=300),
    "group-10000": _sizes(15, 1, 15, 5, 0, floor_tasks=40, fast_memory=30),
    "crowd-12": _sizes(300, 100, 300, 200, 0),
    "crowd-100": _sizes(150, 30, 150, 100, 0),
    "crowd-1000": _sizes(60, 10, 60, 40, 0),
    "crowd-10000": _sizes(8, 1, 8, 5, 0),
    "workers": _sizes(10000, 600, 0, 0, 0),
    "rooms": _sizes(60, 10, 60, 20, 8, floor_tasks=300, fast_memory=150),
    "size-100": _sizes(1000, 100, 1000, 200, 1000, fast_memory=1000),
    "size-1k": _sizes(1000, 100, 1000, 200, 1000, fast_memory=1000),
    "size-10k": _sizes(300, 50, 300, 100, 500, fast_memory=500),
    "size-100k": _sizes(40, 20, 40, 20, 200, fast_memory=200),
    "encrypted": _sizes(200, 60, 200, 100, 0),
    "shards-1": _sizes(400, 60, 400, 100, 0),
    "shards-2": _sizes(400, 20, 400, 100, 0),
    "shards-4": _sizes(400, 20, 400, 100, 0),
    "sync_group": _sizes(200, 150, 200, 150, 0, floor_tasks=500),
    "sync_native": _sizes(1000, 0, 1000, 0, 0),
    "sync_threads": _sizes(200, 15, 200, 15, 0),
    "storm": _sizes(5, 2, 5, 3, 5, fast_memory=5),
    "storm-500": _sizes(8, 3, 8, 5, 8, fast_memory=8),
    "cluster-pairs": _sizes(400, 0, 400, 0, 0),
    "spread": _sizes(100, 0, 100, 0, 0),
    "cluster-spread": _sizes(100, 0, 100, 0, 0),
    "waiting-50": _sizes(20000, 2000, 20000, 4000, 10000, fast_memory=20000),
    "waiting-5000": _sizes(20000, 0, 20000, 2000, 0, fast_memory=20000),
    "idle": _sizes(10, 10, 10, 10, 10, fast_memory=10),
    "site": _sizes(40, 20, 40, 30, 15, floor_tasks=40, fast_memory=40),
    "consumers-room": _sites(60, 30, 60, 30, 300, floor_tasks=60, floor_tasks_direct=400),
    "consumers-echo": _sites(30, 0, 30, 0, 150),
    "consumers-idle": _sites(2000, 0, 2000, 0, 2000),
    "sockets-200": _sites(120, 100, 120, 100, 300, 500),
    "sockets-1000": _sites(30, 20, 30, 30, 100, 150),
    "sockets-daphne": _sites(60, 40, 60, 60, 150, 150),
    "sockets-granian": _sites(100, 60, 100, 60, 300, 300),
    "load-250": _sizes(250, 250, 250, 250, 250, floor_tasks=250, fast_memory=250),
    "load-1000": _sizes(1000, 1000, 1000, 1000, 1000, floor_tasks=1000, fast_memory=1000),
    "load-4000": _sizes(4000, 2000, 4000, 4000, 4000, floor_tasks=4000, fast_memory=4000),
    "load-16000": _sizes(12000, 0, 12000, 6000, 12000, floor_tasks=12000, fast_memory=12000),
    "load-64000": _sizes(30000, 0, 30000, 0, 30000, floor_tasks=30000, fast_memory=30000),
}
QUICK: dict[str, dict[str, int]] = {
    "roundtrip": _sizes(1000, 400, 1000, 600, 2000, floor=1000, floor_pubsub=1000, fast_memory=2000),
    "send": _sizes(200, 30, 200, 60, 200, floor=200),
    "pairs": _sizes(200, 60, 200, 60, 200, floor_tasks=200, fast_memory=400),
    "group": _sizes(40, 10, 40, 20, 4, floor_tasks=40, fast_memory=100),
    "storm": _sizes(3, 1, 3, 2, 3),
    "sync_group": _sizes(60, 40, 60, 40, 0),
    "sync_native": _sizes(300, 0, 300, 0, 0),
    "sync_threads": _sizes(60, 6, 60, 6, 0),
}
# What `bench.check` needs to judge the promises.
CHECK = {
    **QUICK,
    "group-100": _sizes(100, 0, 100, 0, 0, fast_memory=400),
    "group-10000": _sizes(5, 0, 5, 0, 0, fast_memory=10),
    "pairs-1k": _sizes(300, 0, 300, 0, 0),
    "storm-500": _sizes(4, 0, 4, 3, 0),
    "cluster-pairs": _sizes(0, 0, 200, 0, 0),
    "spread": _sizes(60, 0, 0, 0, 0),
    "cluster-spread": _sizes(60, 0, 0, 0, 0),
    "waiting-50": _sizes(10000, 0, 10000, 0, 0),
    "waiting-5000": _sizes(10000, 0, 10000, 0, 0),
    "idle": _sizes(10, 10, 10, 10, 0),
    "site": _sizes(20, 10, 20, 15, 0, floor_tasks=20),
    "consumers-room": _sites(30, 0, 30, 0, 200, floor_tasks_direct=300),
    "consumers-echo": _sites(15, 0, 15, 0, 80),
    "consumers-idle": _sites(2000, 0, 2000, 0, 2000),
    "sockets-200": _sites(0, 60, 0, 60, 200, 300),
    "sockets-1000": _sites(0, 10, 0, 0, 60),
}
# Where the pure twin and the second event loop are measured too: the rest would say the same once more.
HEADLINES = ("roundtrip", "send", "pairs", "group")


def size_of(sizes: dict[str, dict[str, int]], case: str, layer: str) -> int:
    """How much a layer is given in a case; 0 when it does not take part. The pure twin gets half of ours."""
    if layer.endswith("-pure") and case in HEADLINES:
        return sizes[case].get(layer.removesuffix("-pure"), 0) // 2
    return sizes[case].get(layer, 0)
