"""Plans come from seeds, and all that can be planned can happen and has a rule."""

from __future__ import annotations

import pytest

from tests.faults.chaos.plan import BESIDE, OF_PROCESSES, SETUPS, make_plan
from tests.faults.chaos.rules import RULES
from tests.faults.chaos.servers import Servers
from tests.faults.chaos.traffic import Traffic


@pytest.mark.parametrize("setup", SETUPS)
def test_the_same_seed_gives_the_same_plan(setup: str) -> None:
    plans = [make_plan(1, setup, number) for number in range(20)]
    assert plans == [make_plan(1, setup, number) for number in range(20)]
    assert len(set(map(repr, plans))) == 20
    assert make_plan(2, setup, 0) != plans[0]


def test_each_fault_is_planned_has_a_rule_and_can_happen() -> None:
    faults = [fault for setup in SETUPS for number in range(200) for fault in make_plan(1, setup, number).faults]
    names = {fault.name for fault in faults}
    assert {other.name for fault in faults for other in fault.beside} == {*OF_PROCESSES, *BESIDE}
    assert names == RULES.keys()
    for name in names - {"pause_client"}:
        assert hasattr(Traffic if name in OF_PROCESSES else Servers, f"_{name}")
