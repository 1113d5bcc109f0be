"""The bench's report, from a made-up run of two contenders: nothing is measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.cases import CASES
from bench.charts import PAGE
from bench.promises import check
from bench.report import CONSUMERS, LAYERS, PARTS, Part, cases_of, main, markdown, put_between
from bench.tables import number

LABELS = {"fast": "ours", "fast-direct": "our consumers", "upstream": "theirs", "memory": "in memory"}

#: As the bench calls them.
NAMES = {
    "fast": "channels_redis_fast core",
    "fast-direct": "core, our consumers",
    "upstream": "channels_redis 4.3 core",
    "memory": "InMemoryChannelLayer",
}


def line(layer: str, workload: str, round_number: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "round": round_number,
        "layer": layer,
        "workload": workload,
        "loop": "asyncio",
        "n": 100,
        "sent": 100,
        "received": 100,
        "lost": 0,
        "repeated": 0,
        "disordered": 0,
        "seconds": seconds,
        "per_second": 100 / seconds,
        "cpu_seconds": seconds / 2,
        "p50_us": seconds * 1e4,
        "p99_us": seconds * 3e4,
        "server": {"cpu_us": 250, "evalsha": 100, "zadd": 100},
        "extra": {},
        **more,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    measurements = []
    for number_of_round in (1, 2, 3):
        for workload in ("pairs", "roundtrip", "load-250", "load-1000", "group-10", "group-100"):
            measurements.append(line("fast", workload, number_of_round, 0.01 * number_of_round))
            measurements.append(line("upstream", workload, number_of_round, 1.0 * number_of_round, lost=7))
        extra = {"cpu_per_minute": 0.5, "connections": 2}
        measurements.append(line("fast", "idle", number_of_round, 5.0, extra=extra))
        for workload in ("sockets-200", "sockets-1000"):
            measurements.append(line("fast-direct", workload, number_of_round, 0.01 * number_of_round))
            measurements.append(line("upstream", workload, number_of_round, 0.05 * number_of_round))
    about = {"processor": "a processor", "cores": 2, "platform": "a platform", "server": "redis 7"}
    return {
        "began": "2026-01-02T03:04:05+00:00",
        "machine": {**about, "load": [0.5, 0, 0], "load_after": [1.5, 0, 0]},
        "rounds": 3,
        "labels": LABELS,
        "versions": {"fast": {"python": "3.11"}, "upstream": {"python": "3.11", "redis": "7.4"}},
        "measurements": measurements,
        "promises": check(measurements),
    }


def test_the_cases_come_in_their_own_order(report: dict[str, Any]) -> None:
    report["measurements"].reverse()
    assert cases_of(report)[:3] == ["roundtrip", "pairs", "group-10"]


def test_a_table_tells_medians_spread_ratios_and_losses(report: dict[str, Any]) -> None:
    rows = markdown(report).splitlines()
    at = rows.index("### send → receive, 50 × 50")
    ours, theirs = rows[at + 4], rows[at + 5]
    # 100 messages in 0.01, 0.02 and 0.03 s; 100 times upstream; 100 µs of client and 2.5 of server each; 2 commands.
    assert ours == "| ours | **5,000** | 3,333 – 10,000 | 100 |  | 100 | 2.50 | 2.00 | 0 | 0 |"
    assert theirs == "| theirs | **50.0** | 33.3 – 100 |  |  | 10,000 | 2.50 | 2.00 | 21 | 0 |"


def test_latency_has_its_tail_and_idle_has_its_own_numbers(report: dict[str, Any]) -> None:
    text = markdown(report)
    assert "| ours | **200** | 100 – 300 | 600 | 100 |" in text
    assert "- ours: CPU s/min 0.500, connections 2.00" in text


def test_the_promises_and_the_machine_are_told(report: dict[str, Any]) -> None:
    text = markdown(report)
    assert "3 rounds; load average 0.5 before and 1.5 after" in text
    assert "| ours: send → receive, 50 × 50 | theirs | 120 × | 100 × | 100 – 100 | missed |" in text


def test_a_turn_that_failed_is_shown(report: dict[str, Any]) -> None:
    failed = {"round": 1, "layer": "memory", "workload": "pairs", "loop": "asyncio", "n": 1, "failed": "it broke"}
    report["measurements"].append(failed)
    assert "| in memory | failed |" in markdown(report)


def test_only_the_marked_part_of_a_page_changes() -> None:
    page = f"before\n{LAYERS.begin}\nold\n{LAYERS.end}\nafter\n"
    changed = put_between(page, "new\n")
    assert changed == f"before\n{LAYERS.begin}\n\nnew\n\n{LAYERS.end}\nafter\n"
    assert put_between(changed, "new\n") == changed
    with pytest.raises(ValueError, match="lacks the marks"):
        put_between("before\nafter\n", "new")


@pytest.mark.skipif(not PAGE.exists(), reason="needs the documentation")
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_page_in_the_docs_has_the_marks(part: Part) -> None:
    assert "new text" in put_between(PAGE.read_text(encoding="utf-8"), "new text", part)


def test_every_kind_of_case_is_in_one_part() -> None:
    kinds = [kind for part in PARTS for kind in part.kinds]
    assert sorted(kinds) == sorted({case.kind for case in CASES.values()})


def test_from_the_file_to_the_page(report: dict[str, Any], tmp_path: Path) -> None:
    page, stored = tmp_path / "tables.md", tmp_path / "run.json"
    page.write_text("".join(f"# Ours\n{part.begin}\n{part.end}\n" for part in PARTS), encoding="utf-8")
    report["labels"] = NAMES
    stored.write_text(json.dumps(report))
    assert main([str(stored), "--page", str(page)]) == 0
    layers, sites = page.read_text(encoding="utf-8").split(LAYERS.end)
    assert "### send → receive, 50 × 50" in layers
    assert "WebSockets" not in layers
    assert "### uvicorn, 1,000 WebSockets in one room, frames" in sites
    for name in ("latency-under-load", "frames-to-browsers"):
        assert (tmp_path / "images" / f"{name}.svg").read_text(encoding="utf-8").startswith("<svg")


def test_a_run_of_one_part_leaves_the_other_as_it_is(report: dict[str, Any], tmp_path: Path) -> None:
    page, stored = tmp_path / "tables.md", tmp_path / "run.json"
    page.write_text("".join(f"{part.begin}\nan earlier run\n{part.end}\n" for part in PARTS), encoding="utf-8")
    stored.write_text(json.dumps(CONSUMERS.of(report)))
    assert main([str(stored), "--page", str(page)]) == 0
    layers, sites = page.read_text(encoding="utf-8").split(LAYERS.end)
    assert "an earlier run" in layers
    assert "an earlier run" not in sites


def test_a_site_has_both_percentiles_and_its_promises_name_theirs(report: dict[str, Any]) -> None:
    text = markdown(CONSUMERS.of(report))
    # 100 frames in 0.01, 0.02 and 0.03 s; five times upstream.
    assert "| our consumers | **5,000** | 3,333 – 10,000 | 0.200 | 0.600 | 5.00 |" in text
    assert "WebSockets in one room, frames, p99 µs | theirs | 7.00 × | 5.00 × |" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.1234, "0.123"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (123.4, "123"),
        (123456.7, "123,457"),
        (999.9, "1,000"),
    ],
)
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert number(value) == text
