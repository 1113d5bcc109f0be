"""The bench of clients that are cut counts honestly, and draws what it counted. No time is looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.contender import BACKENDS
from bench.jitter import BEGIN, END, LABELS, PAGE, PICTURE, main, parse
from bench.jittered import count
from bench.processes import result_of


def test_what_is_counted() -> None:
    """Sent at 0, 1, 2 and 3. The second client was away when 1 was sent, and came back at 1.5."""
    first = [[0, 0.1, -1], [1, 1.1, -1], [1, 1.2, -1], [2, 2.1, -1], [3, 3.1, -1]]
    second = [[0, 0.1, -1], [2, 2.1, 1.5], [1, 2.25, 1.5]]
    found = count([0.0, 1.0, 2.0, 3.0], [first, second])
    assert (found["expected"], found["delivered"], found["percent"]) == (8, 7, 87.5)
    assert (found["repeated"], found["disordered"], found["recovered"]) == (1, 1, 1)
    assert found["p99_ms"] == pytest.approx(1250)
    assert found["recovered_p99_ms"] == pytest.approx(750)


def test_nothing_arrived() -> None:
    found = count([0.0], [[], []])
    assert (found["percent"], found["p50_ms"], found["recovered_p99_ms"]) == (0, None, None)


def test_contenders() -> None:
    assert set(LABELS) <= set(BACKENDS)


def test_clients_are_not_away_all_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--every", "4", "--away", "2"])
    assert "--every must be more than twice --away" in capsys.readouterr().err


@pytest.mark.parametrize("layer", ["fast-resumable", "fast-pubsub-resumable"])
def test_a_small_run(layer: str, own_server: Any) -> None:
    pytest.importorskip("picows")
    sizes = {"clients": 6, "messages": 20, "rate": 20, "every": 0.5, "away": 0.1}
    options = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    words = ["--layer", layer, "--url", own_server().url, "--loop", "uvloop", *options]
    line = result_of(Path(sys.executable), "bench.jittered", words, 90)
    assert (line["expected"], line["delivered"], line["repeated"], line["disordered"]) == (120, 120, 0, 0)
    assert line["cuts"] > 0


def test_from_the_file_to_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sent, arrivals = [0.0, 1.0], [[[0, 0.1, -1], [1, 2.5, 2.0]]]
    line = {**count(sent, arrivals), "cuts": 3, "lost": 0, "refused": 0, "server_cpu_seconds": 1.5}
    report = {
        "began": "2030-01-02T03:04:05+00:00",
        "loop": "uvloop",
        "clients": 1,
        "messages": 2,
        "rate": 1.0,
        "every": 15.0,
        "away": 2.0,
        "machine": {"processor": "P", "cores": 2, "server": "S", "load": [1.0], "load_after": [2.0]},
        "measurements": [{"layer": layer, **line} for layer in LABELS],
    }
    stored, page = tmp_path / "run.json", tmp_path / "resuming.md"
    stored.write_text(json.dumps(report))
    page.write_text(f"# Ours\n{BEGIN}\nold\n{END}\nafter\n")
    words = ["--draw", str(stored), "--page", str(page)]
    assert main(words) == 0
    text, picture = page.read_text(), (tmp_path / "images" / PICTURE).read_bytes()
    assert text.startswith(f"# Ours\n{BEGIN}\n\nMeasured 2030-01-02 03:04 UTC on P, 2 cores, S, uvloop")
    assert text.endswith(f"{END}\nafter\n")
    assert "| channels_redis_fast core, Resumable | **100.00 %** | 0 | 1,500 ms | 1,500 ms | 500 ms | 1.5 s |" in text
    assert b"<svg" in picture
    assert main(words) == 0
    assert (page.read_text(), (tmp_path / "images" / PICTURE).read_bytes()) == (text, picture)
    page.write_text("# Ours\n")
    with pytest.raises(ValueError, match="the page lacks the marks"):
        main(words)


def test_the_page_in_the_docs_has_the_marks() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
