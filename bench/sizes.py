"""How much of each workload a contender is given: by workload, then by layer.

Counts are messages per sender, broadcasts, or round trips. Rates are compared, not totals, so they need not be equal.
"""

# Upstream gets 60 messages a pair: at 100 it collapses (170/s in all), and the ratio would flatter us. It and the
# in-memory layer's groups get less elsewhere only because they would take long; ours gets enough to be measurable.
FULL = {
    "pairs": {"fast": 400, "upstream": 60, "memory": 400},
    "send": {"fast": 400, "upstream": 60, "memory": 400},
    "group": {"fast": 100, "upstream": 20, "memory": 8},
    "roundtrip": {"fast": 3000, "upstream": 1000, "memory": 5000},
}
QUICK = {
    "pairs": {"fast": 200, "upstream": 60, "memory": 200},
    "send": {"fast": 200, "upstream": 30, "memory": 200},
    "group": {"fast": 40, "upstream": 10, "memory": 4},
    "roundtrip": {"fast": 1000, "upstream": 400, "memory": 2000},
}
