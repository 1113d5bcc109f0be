"""The charts of docs/performance.md: they show the numbers of the tables, and can be read on both backgrounds."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from bench import charts
from bench.cases import CASES
from bench.charts import CHARTS, COLORS, WIDTH, Curve, Row, bars, curves, draw, main, microseconds, ratios, tables_of
from tests.conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"
PAIRS = """
### send → receive, 50 × 50

|  | per s | × channels_redis | lost |
| --- | ---: | ---: | ---: |
| channels_redis_fast core | **106,858** | 146 | 0 |
| channels_redis 4.3 core | **830** |  | 0 |
| InMemoryChannelLayer | failed |  |  |

- channels_redis_fast core: CPU 1

## Other

| no | table of a case |
|---|---|
| 1 | 2 |
"""

needs_docs = pytest.mark.skipif(not charts.PAGE.exists(), reason="needs the documentation")


def texts(svg: str) -> list[str]:
    return ["".join(found.itertext()) for found in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_table_is_read_as_it_is_written() -> None:
    tables = tables_of(PAIRS)
    assert tables.keys() == {"send → receive, 50 × 50"}
    assert charts.value_of(tables, "pairs", "channels_redis_fast core", "per s") == 106_858
    assert charts.value_of(tables, "pairs", "channels_redis_fast core", "× channels_redis") == 146
    assert charts.value_of(tables, "pairs", "channels_redis 4.3 core", "× channels_redis") is None
    assert charts.value_of(tables, "pairs", "InMemoryChannelLayer", "per s") is None
    assert charts.value_of(tables, "pairs", "somebody else", "per s") is None
    assert charts.value_of(tables, "send", "channels_redis_fast core", "per s") is None


def test_bars_are_as_long_as_their_numbers() -> None:
    rows = [Row("a & b", 200, "ours"), Row("none", None, "ours"), Row("c", 50, "theirs")]
    svg = bars("T", "n", [("H", rows)])
    assert svg is not None
    assert texts(svg) == ["T", "n", "H", "a & b", "200", "c", "50.0"]
    long, short = [float(found.get("width", 0)) for found in ET.fromstring(svg).iter(f"{SVG}rect")][1:]
    assert long == pytest.approx(4 * short, abs=0.1)


def test_curves_rise_with_their_numbers() -> None:
    svg = curves(
        "T", "n", "x", [Curve("a", [(10, 1), (100, 30), (1000, 500)], "ours"), Curve("b", [(10, 1)], "theirs")]
    )
    assert svg is not None
    assert texts(svg) == ["T", "n", "a", "1", "10", "100", "1,000", "10", "100", "1,000", "x"]
    _, line = [found.get("points", "").split() for found in ET.fromstring(svg).iter(f"{SVG}polyline")]
    points = [tuple(map(float, point.split(","))) for point in line]
    assert all(x2 > x1 and y2 < y1 for (x1, y1), (x2, y2) in pairwise(points))


def test_ratios_are_where_their_axis_says() -> None:
    svg = ratios("T", "n", [("even", [Row("core", 1, "ours")]), ("more", [Row("core", 100, "ours")])])
    assert svg is not None
    assert texts(svg) == [
        "T",
        "n",
        "core",
        "even",
        "1.00 ×",
        "more",
        "100 ×",
        *["1 ×"] * 2,
        *["10 ×"] * 2,
        *["100 ×"] * 2,
    ]
    root = ET.fromstring(svg)
    ends = next((found.get("x1"), found.get("x2")) for found in root.iter(f"{SVG}line") if found.get("class") == "grid")
    assert tuple(found.get("cx") for found in root.iter(f"{SVG}circle"))[1:] == ends


@pytest.mark.parametrize(("value", "text"), [(10, "10 µs"), (1e3, "1 ms"), (1e5, "100 ms"), (1e7, "10 s")])
def test_powers_of_ten_have_a_short_unit(value: float, text: str) -> None:
    assert microseconds(value) == text


def test_only_what_the_tables_have_is_drawn(tmp_path: Path) -> None:
    names = [path.stem for path in draw(PAIRS, tmp_path)]
    assert names == ["messages-through-a-layer", "times-channels-redis"]
    assert draw("", tmp_path) == []


def luminance(color: str) -> float:
    channels = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", COLORS)
def test_colors_can_be_read_in_both_schemes(name: str) -> None:
    """WCAG asks for 4.5 for text: the numbers of ratios are in these colors."""
    svg = bars("T", "n", [("", [Row("a", 1, name)])]) or ""
    cards = re.findall(r"\.card\{fill:(#\w{6})", svg)
    assert len(cards) == 2
    for color, card in zip(COLORS[name], cards, strict=True):
        low, high = sorted([luminance(color), luminance(card)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (color, card)


@needs_docs
def test_the_charts_in_the_docs_are_those_of_the_tables(tmp_path: Path) -> None:
    """`python -m bench.charts` draws them anew."""
    assert main(["--images", str(tmp_path)]) == 0
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(CHARTS)
    for path in tmp_path.iterdir():
        assert (charts.IMAGES / path.name).read_bytes() == path.read_bytes(), path.name


@needs_docs
@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_fits_a_phone_and_is_on_the_page(name: str) -> None:
    assert f"(images/{name}.svg)" in (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    root = ET.fromstring((charts.IMAGES / f"{name}.svg").read_bytes())
    size = float(root.get("font-size", 0))
    # A screen of 360 pixels leaves about 330, in which text of 13 is 9.8.
    assert size * 330 / WIDTH > 9.5
    # Estimated: a letter is about half as wide as high.
    for found in root.iter(f"{SVG}text"):
        text, x = "".join(found.itertext()), float(found.get("x", 0))
        width = 0.55 * size * len(text)
        left = {"end": x - width, "middle": x - width / 2}.get(found.get("text-anchor", ""), x)
        assert left >= 0, text
        assert left + width <= WIDTH + 20, text


@needs_docs
def test_the_readme_has_numbers_of_the_tables() -> None:
    page = charts.PAGE.read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    frames, messages, connections = re.findall(r"^\| [^|]* \| ([\d,]+) \| \*\*([\d,]+)\*\* \|$", readme, re.M)
    for case, ours, said in (("sockets-1000", "core, our consumers", frames), ("pairs", charts.OURS, messages)):
        rows = tables_of(page)[CASES[case].title]
        assert said == tuple(rows[name]["per s"].strip("*") for name in (charts.THEIRS, ours))
    for name, said in zip((charts.THEIRS, charts.OURS), connections, strict=True):
        found = re.search(rf"^- {re.escape(name)}: .*, connections ([\d.]+)$", page, re.M)
        assert found is not None
        assert float(found[1]) == float(said)
