"""The fuzzer's kept inputs, played back on both twins: what was found once stays found. See docs/reliability.md."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fuzz import corpus

NAMES = sorted(path.stem for path in corpus.KEPT.glob("*.txt"))


def test_every_target_has_a_corpus(twins: Any) -> None:
    from tests.fuzz.targets import TARGETS

    assert sorted(TARGETS) == NAMES
    assert all(corpus.load(name) for name in NAMES)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_kept_inputs(twins: Any, name: str) -> None:
    from tests.fuzz.targets import TARGETS

    for data in corpus.load(name):
        TARGETS[name](data)


def test_a_difference_is_told(twins: Any) -> None:
    from tests.fuzz.targets import Different, same

    with pytest.raises(Different, match=r"module\('of kind',\)"):
        same(lambda hot: hot.kind.__module__, "module", "of kind")
