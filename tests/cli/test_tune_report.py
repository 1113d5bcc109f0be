"""What `tune` shows of a sweep: the setting to paste, the table at each width, the pictures and the page."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Group
from rich.text import Text

from channels_redis_fast.cli.tune import page, plots, report, table
from channels_redis_fast.cli.tune.advice import advise
from channels_redis_fast.cli.tune.measured import Estimate, Run
from channels_redis_fast.cli.tune.sweep import Standing
from tests.cli import sweeps
from tests.cli.screens import same_as_expected, shown
from tests.conftest import ROOT

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


# The setting.


def recommended(channel: str | None, runs: list[Run] | None = None, **options: Any) -> tuple[str, str]:
    """Return the setting, and what is said beside it."""
    advice = sweeps.as_json(sweeps.measured_plan(), runs or sweeps.measured_runs(), channel, **options)["advice"]
    assert advice["capacity"] == 42
    return advice["setting"], " ".join(advice["text"])


def test_a_channel_that_is_named_gets_its_own_capacity() -> None:
    setting, text = recommended("thumbnails", channel_capacity={"http.*": 7, "thumbnails": 3})
    assert setting == '"channel_capacity": {"thumbnails": 42, "http.*": 7},'
    assert "all channels" not in text


@pytest.mark.parametrize(("current", "expected"), [(100, 100), (64, 64), (20, 42), (26, 42)])
def test_without_a_channel_it_is_the_capacity_of_all_which_is_not_lowered_without_need(
    current: int, expected: int
) -> None:
    setting, text = recommended(None, capacity=current)
    assert setting == f'"capacity": {expected},'
    assert "applies to all channels" in text
    assert "--channel" in text
    assert (f"set now, {current}, keeps both limits too. Keep it" in text) is (expected == current)


def test_a_capacity_of_all_that_waits_too_long_is_lowered() -> None:
    runs = sweeps.measured_runs()
    runs[-1].wait_p99 = Estimate(0.9, 0.8, 1.0)
    assert recommended(None, runs, capacity=100)[0] == '"capacity": 42,'


def test_an_entry_for_every_channel_hides_the_capacity() -> None:
    setting, text = recommended(None, channel_capacity={"*": 1})
    assert setting == '"capacity": 100,'
    assert "Remove the entry of channel_capacity that matches all channels" in text


def test_consumers_whose_channels_have_an_entry_get_it_changed() -> None:
    plan = sweeps.measured_plan()
    plan = replace(plan, workload=replace(plan.workload, to="specific"))
    for entries, expected in (
        ({"specific.*": 5, "http.*": 7}, '"channel_capacity": {"specific.*": 42, "http.*": 7},'),
        ({"http.*": 7}, '"capacity": 100,'),
    ):
        advice = sweeps.as_json(plan, sweeps.measured_runs(), None, channel_capacity=entries)["advice"]
        assert advice["setting"] == expected


def test_what_is_not_sure_is_no_setting() -> None:
    plan = sweeps.measured_plan(max_loss=0.0005)
    advice = sweeps.as_json(plan, sweeps.measured_runs())["advice"]
    assert (advice["kind"], advice["setting"]) == ("unsure", None)


# The terminal.


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_sweep_at_a_width(width: int) -> None:
    plan, runs = sweeps.measured_plan(), sweeps.measured_runs()
    advice = advise(plan, runs)
    parts = (report.describe(plan.workload), report.describe_limits(plan.limits), *advice.text)
    everything = Group(*map(Text, parts[:2]), table.fitting(plan, runs, advice), Text(table.LEGEND), Text(parts[2]))
    same_as_expected(f"tune-{width}", shown(everything, width))


def test_the_documentation_shows_what_is_printed() -> None:
    plan, runs = sweeps.measured_plan(), sweeps.measured_runs()
    told = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8").splitlines()
    advice = advise(plan, runs)
    for line in (
        *shown(table.fitting(plan, runs, advice), 118),
        *shown(Text(report.describe_limits(plan.limits)), 118),
    ):
        assert line in told
    assert advice.text[0] in told


@pytest.mark.parametrize("width", range(60, 140, 3))
def test_no_width_breaks_a_number(width: int) -> None:
    plan, runs = sweeps.measured_plan(), sweeps.measured_runs()
    whole = {word for row in table.rows(plan, runs) for cell in row for word in cell.split()}
    lines = shown(table.fitting(plan, runs, advise(plan, runs)), width)
    found = {word for line in lines for word in line.split() if re.match(r"[\d,.+]+(%|kB)?$", word)}
    assert found <= whole
    assert "42" in found


def test_no_two_columns_have_the_same_name() -> None:
    titles = [column.title for column in table.COLUMNS]
    assert len(set(titles)) == len(titles)


def test_how_far_a_sweep_is() -> None:
    standing = Standing(3, 11, (8, 16), 30.0, 70.0)
    assert report.standing(standing) == "3 of 11 measured, now 8, 16"
    assert standing.part == pytest.approx(0.3)
    assert (report.time_left(70.0), report.time_left(0.2), report.time_left(3600)) == (
        "1:10 left",
        "0:01 left",
        "60:00 left",
    )


def test_how_long_a_sweep_takes_in_all() -> None:
    plan = sweeps.measured_plan()
    assert report.whole_time(plan) == "about 11 min in all, less if several can run at the same time"
    assert report.whole_time(replace(plan, at_once=11)) == "about 58 s in all"


# The pictures.


@pytest.fixture
def pictures() -> dict[str, ElementTree.Element]:
    plots_of = plots.draw(sweeps.as_json(sweeps.measured_plan(), sweeps.measured_runs()))
    return {panel.file: ElementTree.fromstring(panel.svg) for panel in plots_of}


def marks(picture: ElementTree.Element) -> list[tuple[float, float]]:
    """Return where points are drawn: closed shapes that belong to a line, which is cut off at the edge of the axes."""
    shapes = {path.attrib["id"]: path.attrib["d"] for path in picture.iter(f"{SVG}path") if "id" in path.attrib}
    return [
        (float(use.attrib["x"]), float(use.attrib["y"]))
        for group in picture.iter(f"{SVG}g")
        if "clip-path" in group.attrib
        for use in group.iter(f"{SVG}use")
        if "z" in shapes[use.attrib[HREF].removeprefix("#")]
    ]


def frame(picture: ElementTree.Element) -> tuple[float, float, float, float]:
    (rect,) = picture.findall(f".//{SVG}clipPath/{SVG}rect")
    x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def test_no_point_is_cut_off(pictures: dict[str, ElementTree.Element]) -> None:
    # The smallest loss is far below what the other runs are sure of.
    runs = sweeps.measured_runs()[:6]
    runs[-1].loss = Estimate(0.00001, 0.0, 0.00703)
    plan = sweeps.measured_plan(max_loss=0.01)
    far = {panel.file: ElementTree.fromstring(panel.svg) for panel in plots.draw(sweeps.as_json(plan, runs))}
    for picture in (*pictures.values(), *far.values()):
        left, top, right, bottom = frame(picture)
        assert len(marks(picture)) >= 6
        for x, y in marks(picture):
            assert left + 3 < x < right - 3
            assert top + 3 < y < bottom - 3


def test_both_pictures_have_the_same_horizontal_axis(pictures: dict[str, ElementTree.Element]) -> None:
    loss, wait = pictures["loss.svg"], pictures["wait.svg"]
    assert frame(loss) == frame(wait)
    # A mark for each capacity in one, three in the other.
    assert {x for x, _ in marks(loss)} == {x for x, _ in marks(wait)}
    axes = [picture.find(f".//{SVG}g[@id='matplotlib.axis_1']") for picture in (loss, wait)]
    labels = [[text.text for text in axis.iter(f"{SVG}text")] for axis in axes if axis is not None]
    assert labels[0] == labels[1] == ["4", "8", "16", "42", "100", "capacity"]


def test_the_legend_is_below_the_axes(pictures: dict[str, ElementTree.Element]) -> None:
    for picture in pictures.values():
        bottom = frame(picture)[3]
        legend = picture.find(f".//{SVG}g[@id='legend_1']")
        assert legend is not None
        assert all(float(use.attrib["y"]) > bottom for use in legend.iter(f"{SVG}use"))


def test_pictures_are_dark_on_dark_pages(pictures: dict[str, ElementTree.Element]) -> None:
    for picture in pictures.values():
        styles = "".join(style.text or "" for style in picture.iter(f"{SVG}style"))
        assert "prefers-color-scheme: dark" in styles
        colours = {
            colour
            for one in picture.iter()
            for colour in re.findall(r"(?:fill|stroke): (#\w+)", one.attrib.get("style", ""))
        }
        # Each that is drawn has one for the dark, and text is never of the default, which is black.
        assert colours <= set(plots.DARK)
        for light in colours:
            assert f'[style*="fill: {light}"]{{fill:{plots.DARK[light]}' in styles
        assert all("fill: #" in text.attrib["style"] for text in picture.iter(f"{SVG}text"))


def test_equal_sweeps_give_equal_pictures() -> None:
    sweep = sweeps.as_json(sweeps.measured_plan(), sweeps.measured_runs())
    assert plots.draw(sweep) == plots.draw(sweep)


def test_the_page_has_all_of_it() -> None:
    plan, runs = sweeps.measured_plan(), sweeps.measured_runs()
    runs[0].doubts.append("The machine was <busy>.")
    sweep = sweeps.as_json(plan, runs)
    panels = plots.draw(sweep)
    titles = [column.title for column in table.COLUMNS]
    text = page.page(sweep, ["What was asked."], titles, table.rows(plan, runs), table.LEGEND, panels)
    assert all(sentence in unescape(text) for sentence in ("What was asked.", *sweep["advice"]["text"], table.LEGEND))
    assert all(f"<th>{title}" in text for title in titles)
    assert "4: The machine was &lt;busy&gt;." in text
    assert "<tr class=chosen><td>42<td>" in text
    # Side by side where there is room, else one below the other.
    assert "repeat(auto-fit, minmax(min(100%, 22rem), 1fr))" in text
