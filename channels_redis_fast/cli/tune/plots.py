"""
The pictures of a sweep: losses against capacity, and waiting times against capacity. Draws what its JSON says.

Two SVGs of the same size and with the same horizontal axis, to be shown side by side, or one below the other if there
is no room. Their text is real text, and they follow a dark colour scheme of the reader.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The width and height of a picture in inches. At that size its text is as large as a page's, and legible on a phone.
SIZE = (4.6, 4.2)

#: The position of the axes in it (left, bottom, width, height): the same in both, so that they are aligned.
AXES = (0.15, 0.33, 0.82, 0.59)

#: The limits of an axis without a zero, as a fraction of its smallest number and as a multiple of its largest.
BELOW, ABOVE = 0.5, 2.0

#: The shortest waiting time that is shown on the axis, in seconds.
SHORTEST = 1e-5

#: The maximum number of labels along the capacities.
MOST_LABELS = 6

#: The colours, each with the one that replaces it on a dark page.
INK, GRID, PAPER = "#24292f", "#d0d7de", "#ffffff"
BLUE, GREEN, ORANGE, RED = "#0969da", "#1a7f37", "#bc4c00", "#cf222e"
DARK = {
    INK: "#e6edf3", GRID: "#3d444d", PAPER: "#0d1117",
    BLUE: "#58a6ff", GREEN: "#56d364", ORANGE: "#f0883e", RED: "#ff7b72",
}  # fmt: skip

FILES = ("loss.svg", "wait.svg")


@dataclass(frozen=True)
class Panel:
    """A picture: its file name, a description for readers who cannot see it, and the SVG."""

    file: str
    description: str
    svg: str


def draw(sweep: Mapping[str, Any]) -> list[Panel]:
    """Return the pictures. Raises ``ModuleNotFoundError`` without matplotlib."""
    runs = [run for run in sweep["runs"] if run["is_reliable"]] or sweep["runs"]
    descriptions = ("messages lost against capacity", "waiting time against capacity")
    return [
        Panel(file, description, _picture(panel, sweep, runs))
        for file, description, panel in zip(FILES, descriptions, (_loss, _wait), strict=True)
    ]


def _picture(
    panel: Callable[[Any, Mapping[str, Any], Sequence[Mapping[str, Any]]], None],
    sweep: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
) -> str:
    import matplotlib as mpl  # noqa: PLC0415 - of the extra
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    # Equal numbers give equal files, and the reader's browser draws the text.
    style: dict[Any, Any] = {
        "svg.hashsalt": "tune", "svg.fonttype": "none", "font.size": 10.5, "axes.titlesize": 12,
        "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.edgecolor": INK,
        "xtick.color": INK, "ytick.color": INK, "grid.color": GRID, "grid.linewidth": 0.8,
        "axes.facecolor": "none", "figure.facecolor": PAPER, "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=SIZE)
        FigureCanvasSVG(figure)
        axes = figure.add_axes(AXES)
        # Set first: a scale brings its own ticks along.
        axes.set_xscale("log")
        axes.set_yscale("log")
        panel(axes, sweep, runs)
        _capacities(axes, sweep, runs)
        axes.yaxis.set_minor_formatter("")
        axes.grid()
        axes.set_axisbelow(True)
        # Below the axes, where there can be no line.
        figure.legend(loc="lower center", ncols=2, frameon=False, fontsize=9.5)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _with_schemes(out.getvalue())


def _with_schemes(svg: str) -> str:
    """Return an SVG that is dark if its reader prefers that. Programs without support for that draw it light."""
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark} !important}}'
        for light, dark in DARK.items()
        for name in ("fill", "stroke")
    )
    sheet = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return re.sub(r"(<svg [^>]*>)", lambda found: f"{found[1]}\n {sheet}", svg, count=1)


def _capacities(axes: Any, sweep: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw the horizontal axis, which both pictures share, and the resulting capacity."""
    capacities = [run["capacity"] for run in runs]
    chosen = sweep["advice"]["capacity"]
    least, most = capacities[0] / 1.3, capacities[-1] * 1.3
    axes.set_xlim(least, most)
    shown = _labelled(capacities, chosen, (most / least) ** (1 / MOST_LABELS))
    axes.set_xticks(shown, [f"{capacity:,}" for capacity in shown])
    axes.set_xticks(capacities, [""] * len(capacities), minor=True)
    axes.set_xlabel("capacity")
    if chosen is not None:
        certain = sweep["advice"]["kind"] == "capacity"
        label = f"recommended: {chosen:,}" if certain else f"perhaps: {chosen:,}"
        axes.axvline(chosen, color=GREEN, linewidth=1.5, label=label, zorder=1)


def _labelled(capacities: Sequence[int], chosen: int | None, apart: float) -> list[int]:
    """Return the capacities to label: the chosen one, and those of the others that leave room for the labels."""
    shown = [chosen] if chosen is not None and chosen in capacities else []
    for capacity in (capacities[-1], *capacities):
        if all(max(capacity, other) >= apart * min(capacity, other) for other in shown):
            shown.append(capacity)
    return sorted(shown)


def _limit(axes: Any, limit: float, label: str) -> None:
    axes.axhline(limit, color=RED, linestyle="--", linewidth=1.2, label=label, zorder=1)


def _loss(axes: Any, sweep: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    some = [run for run in runs if run["loss"]["estimate"] > 0]
    none = [run for run in runs if run["loss"]["estimate"] <= 0]
    limit = sweep["limits"]["max_loss"]
    numbers = [limit, *(run["loss"]["estimate"] for run in some), *(run["loss"]["high"] for run in runs)]
    floor = BELOW * min(numbers)
    if some:
        shares = [run["loss"]["estimate"] for run in some]
        # An interval that goes down to zero extends to the picture's edge and beyond.
        below = [run["loss"]["estimate"] - max(run["loss"]["low"], floor / 10) for run in some]
        above = [run["loss"]["high"] - run["loss"]["estimate"] for run in some]
        axes.errorbar(
            [run["capacity"] for run in some], shares, [below, above], marker="o", markersize=5, capsize=3, color=BLUE,
            label="lost, 95% interval",
        )  # fmt: skip
    if none:
        axes.plot(
            [run["capacity"] for run in none], [run["loss"]["high"] for run in none], "v", color=BLUE,
            fillstyle="none", label="none lost: upper bound",
        )  # fmt: skip
    if sweep["ideal"]:
        ideal = [(capacity, share) for capacity, share in sweep["ideal"] if share >= floor]
        axes.plot(
            [capacity for capacity, _ in ideal], [share for _, share in ideal], ":", color=INK, linewidth=1.4,
            label="ideal queue", zorder=1,
        )  # fmt: skip
        numbers += [share for capacity, share in ideal if capacity >= runs[0]["capacity"]]
    _limit(axes, limit, f"--max-loss {100 * limit:.4g}%")
    axes.set_ylim(floor, ABOVE * max(numbers))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.set_title("Messages lost")


def _wait(axes: Any, sweep: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    arrived = [run for run in runs if run["wait_p99"] is not None]
    capacities = [run["capacity"] for run in arrived]
    limit = sweep["limits"]["max_wait"]
    numbers = [limit]
    for name, label, color, line in (("wait_p50", "p50", INK, ":"), ("wait_p95", "p95", ORANGE, "-.")):
        waits = [_on_axis(run[name]) for run in arrived]
        numbers += waits
        axes.plot(capacities, waits, line, marker=".", color=color, label=label)
    if arrived:
        middle, low, high = (
            [_on_axis(run["wait_p99"][name]) for run in arrived] for name in ("estimate", "low", "high")
        )
        numbers += low + high
        errors = [
            [one - other for one, other in zip(middle, low, strict=True)],
            [one - other for one, other in zip(high, middle, strict=True)],
        ]
        axes.errorbar(
            capacities, middle, errors, marker="o", markersize=5, capsize=3, color=BLUE, label="p99, 95% interval"
        )
    _limit(axes, limit, f"--max-wait {_time(limit)}")
    axes.set_ylim(BELOW * min(numbers), ABOVE * max(numbers))
    axes.yaxis.set_major_formatter(lambda wait, _: _time(wait))
    axes.set_title("Waiting time")


def _on_axis(seconds: float) -> float:
    # The axis has no place for zero.
    return max(seconds, SHORTEST)


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{1000 * seconds:.4g} ms"
