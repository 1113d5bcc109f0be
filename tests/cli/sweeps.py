"""A sweep as it was measured once on a quiet machine: for tests of what is made of one, and for docs/tuning.md."""

from __future__ import annotations

from typing import Any

from channels_redis_fast.cli.deployment import Deployment
from channels_redis_fast.cli.tune import report
from channels_redis_fast.cli.tune.advice import advise
from channels_redis_fast.cli.tune.measured import Estimate, Run
from channels_redis_fast.cli.tune.sweep import Limits, Plan
from channels_redis_fast.cli.tune.workload import Workload
from channels_redis_fast.core import RedisChannelLayer

#: Capacity, lost with its interval, refused, p50, p95, p99 with its interval in ms, a full key in bytes, CPU in ms.
_MEASURED = (
    (4, 0.06969, 0.05096, 0.09463, 313, 8.34, 38.5, 41.3, 41.1, 41.5, 2000, (345, 445, 185)),
    (8, 0.04787, 0.03151, 0.07210, 218, 10.3, 76.7, 81.8, 81.2, 82.3, 3300, (342, 448, 185)),
    (16, 0.02629, 0.01500, 0.04569, 123, 12.6, 151, 162, 160, 164, 5800, (325, 448, 185)),
    (26, 0.00794, 0.00338, 0.01854, 39, 15.3, 206, 260, 239, 263, 9000, (326, 456, 185)),
    (32, 0.00248, 0.00069, 0.00894, 11, 16.1, 226, 299, 256, 320, 10700, (304, 434, 185)),
    (34, 0.00124, 0.00022, 0.00703, 5, 16.0, 229, 306, 256, 332, 11700, (370, 504, 366)),
    (42, 0.0, 0.0, 0.00095, 0, 16.3, 247, 315, 260, 377, 14200, (310, 444, 185)),
    (51, 0.0, 0.0, 0.00095, 0, 16.5, 247, 315, 260, 377, 16900, (321, 421, 185)),
    (64, 0.0, 0.0, 0.00095, 0, 16.3, 246, 315, 264, 378, 20300, (313, 433, 185)),
    (68, 0.0, 0.0, 0.00095, 0, 16.1, 244, 315, 264, 377, 22500, (342, 471, 244)),
    (100, 0.0, 0.0, 0.00095, 0, 16.1, 243, 315, 260, 376, 32100, (340, 461, 244)),
)  # fmt: skip

OFFERED = 4500


def measured_runs() -> list[Run]:
    return [
        Run(
            capacity=capacity, seconds=58.0, offered=OFFERED, received=OFFERED - refused, refused=refused, dropped=0,
            expired=0, failed=0, unaccounted=0, loss=Estimate(lost, least, most),
            wait_p50=p50 / 1000, wait_p95=p95 / 1000, wait_p99=Estimate(p99 / 1000, low / 1000, high / 1000),
            wait_max=0.4, late=0, latest=0.0, service_time=0.0201, fetch_time=0.0004, utilisation=0.8,
            cpu_sender=cpu[0] * OFFERED / 1e6, cpu_consumers=cpu[1] * OFFERED / 1e6, cpu_server=cpu[2] * OFFERED / 1e6,
            message_bytes=200, depth=min(capacity, 40), memory=key, memory_full=key,
        )
        for capacity, lost, least, most, refused, p50, p95, p99, low, high, key, cpu in _MEASURED
    ]  # fmt: skip


def measured_plan(**limits: float) -> Plan:
    workload = Workload(rate=70.0, burst=40, burst_length=0.5, burst_every=5.0, service_time=0.02, consumers=2)
    return Plan(
        workload, Limits(**{"max_loss": 0.001, "max_wait": 0.5, **limits}), [one[0] for one in _MEASURED], 58, 1
    )


def deployment(**options: Any) -> Deployment:
    config = {"hosts": ["redis://localhost"], **options}
    return Deployment("CHANNEL_LAYERS['default']", "default", RedisChannelLayer, config)


def as_json(plan: Plan, runs: list[Run], channel: str | None = "thumbnails", **options: Any) -> dict[str, Any]:
    place = deployment(**options)
    layer = place.make_layer()
    advice = advise(plan, runs)
    pasted = report.recommend(layer, place, plan, runs, channel, advice)
    return report.as_json(place, layer, ["localhost:6379"], plan, runs, advice, pasted)
