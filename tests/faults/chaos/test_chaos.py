"""A few rounds with fixed seeds; `make chaos` runs others, for as long as one likes."""

from __future__ import annotations

import pytest

from tests.faults.chaos.driver import report, run_round
from tests.faults.chaos.plan import make_plan
from tests.faults.chaos.servers import Servers


@pytest.mark.parametrize("setup", ["single", "ring", "pubsub", "hub", "processes"])
def test_a_round(setup: str) -> None:
    plan = make_plan(1, setup, 0)
    with Servers(plan.servers) as servers:
        record, verdict, faults = run_round(plan, servers)
    assert verdict.counts["acknowledged"] > 0
    assert len(faults) == sum(1 + len(fault.beside) for fault in plan.faults)
    assert not verdict.violations, report(plan, record, verdict, faults)
