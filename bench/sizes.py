"""How much of each workload a contender is given: by workload, then by layer.

Counts are messages per sender, broadcasts, round trips or storms. Rates are compared, not totals, so
they need not be equal.
"""

# Upstream's core gets 60 messages a pair: at 100 it collapses (170/s in all), and the ratio would flatter us. Others
# and the in-memory layer's groups get less elsewhere only because they would take long; ours gets enough to be
# measurable.
FULL = {
    "pairs": {"fast": 400, "upstream": 60, "fast-pubsub": 400, "upstream-pubsub": 100, "memory": 400},
    "send": {"fast": 400, "upstream": 60, "fast-pubsub": 400, "upstream-pubsub": 100, "memory": 400},
    "send_spread": {"fast": 400, "upstream": 60, "fast-pubsub": 400, "upstream-pubsub": 100, "memory": 400},
    "group": {"fast": 100, "upstream": 20, "fast-pubsub": 100, "upstream-pubsub": 40, "memory": 8},
    "roundtrip": {"fast": 3000, "upstream": 1000, "fast-pubsub": 3000, "upstream-pubsub": 2000, "memory": 5000},
    "storm": {"fast": 5, "upstream": 2, "fast-pubsub": 5, "upstream-pubsub": 3, "memory": 5},
}
QUICK = {
    "pairs": {"fast": 200, "upstream": 60, "fast-pubsub": 200, "upstream-pubsub": 60, "memory": 200},
    "send": {"fast": 200, "upstream": 30, "fast-pubsub": 200, "upstream-pubsub": 60, "memory": 200},
    "send_spread": {"fast": 200, "upstream": 30, "fast-pubsub": 200, "upstream-pubsub": 60, "memory": 200},
    "group": {"fast": 40, "upstream": 10, "fast-pubsub": 40, "upstream-pubsub": 20, "memory": 4},
    "roundtrip": {"fast": 1000, "upstream": 400, "fast-pubsub": 1000, "upstream-pubsub": 600, "memory": 2000},
    "storm": {"fast": 3, "upstream": 1, "fast-pubsub": 3, "upstream-pubsub": 2, "memory": 3},
}
