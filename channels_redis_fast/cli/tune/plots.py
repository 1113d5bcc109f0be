"""
The picture of a sweep: loss against capacity, and waiting time against capacity. Draws what its JSON says.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

#: What is drawn for nothing, on an axis that has no zero: below the smallest interval.
FLOOR = 0.5


def draw(sweep: Mapping[str, Any]) -> bytes:
    """Return both panels as one PNG. Raises ``ModuleNotFoundError`` without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - of the extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, wait = figure.subplots(1, 2)
    runs = [run for run in sweep["runs"] if run["is_reliable"]] or sweep["runs"]
    for axes, panel in ((loss, _loss), (wait, _wait)):
        # First of all: a scale brings its own marks along.
        axes.set_xscale("log")
        axes.set_yscale("log")
        panel(axes, sweep, runs)
        _capacities(axes, sweep, runs)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    return picture.getvalue()


def _capacities(axes: Any, sweep: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    capacities = [run["capacity"] for run in runs]
    shown: list[int] = []
    for capacity in capacities:
        # Labels that are too close to each other cannot be read.
        if not shown or capacity >= 1.18 * shown[-1]:
            shown.append(capacity)
    axes.set_xticks(shown, [f"{capacity:,}" for capacity in shown], rotation=45)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("capacity")
    chosen = sweep["advice"]["capacity"]
    if chosen is not None:
        certain = sweep["advice"]["kind"] == "capacity"
        label = f"recommended: {chosen:,}" if certain else f"perhaps: {chosen:,}"
        axes.axvline(chosen, color="tab:green", linewidth=1.5, alpha=0.6, label=label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _loss(axes: Any, sweep: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    floor = FLOOR * min([run["loss"]["high"] for run in runs] + [sweep["limits"]["max_loss"] or 1.0])
    some = [run for run in runs if run["loss"]["estimate"] > 0]
    none = [run for run in runs if run["loss"]["estimate"] <= 0]
    if some:
        shares = [run["loss"]["estimate"] for run in some]
        below = [max(run["loss"]["estimate"] - max(run["loss"]["low"], floor), 0) for run in some]
        above = [run["loss"]["high"] - run["loss"]["estimate"] for run in some]
        axes.errorbar(
            [run["capacity"] for run in some], shares, [below, above], marker="o", capsize=3, label="lost, with 95 %"
        )
    if none:
        axes.plot(
            [run["capacity"] for run in none], [run["loss"]["high"] for run in none], "v", color="tab:blue",
            fillstyle="none", label="nothing lost: at most so much",
        )  # fmt: skip
    if sweep["ideal"]:
        ideal = [(capacity, share) for capacity, share in sweep["ideal"] if share > 0]
        axes.plot(
            [capacity for capacity, _ in ideal], [share for _, share in ideal], ":", color="black", linewidth=1,
            label="an ideal queue",
        )  # fmt: skip
    if sweep["limits"]["max_loss"]:
        axes.axhline(sweep["limits"]["max_loss"], color="tab:red", linestyle="--", linewidth=1, label="--max-loss")
    axes.set_ylim(bottom=floor)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axes.set_ylabel("part of the messages that is lost")
    axes.set_title("Loss against capacity", fontsize=10)


def _wait(axes: Any, sweep: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    arrived = [run for run in runs if run["wait_p99"] is not None]
    capacities = [run["capacity"] for run in arrived]
    for name, label in (("wait_p50", "p50"), ("wait_p95", "p95")):
        # Zero has no place on the axis.
        axes.plot(capacities, [max(run[name], 1e-5) * 1000 for run in arrived], marker=".", label=label)
    last = [run["wait_p99"] for run in arrived]
    if last:
        errors = [
            [(one["estimate"] - one["low"]) * 1000 for one in last],
            [(one["high"] - one["estimate"]) * 1000 for one in last],
        ]
        axes.errorbar(
            capacities, [max(one["estimate"], 1e-5) * 1000 for one in last], errors, marker="o", capsize=3,
            label="p99, with 95 %",
        )  # fmt: skip
    axes.axhline(sweep["limits"]["max_wait"] * 1000, color="tab:red", linestyle="--", linewidth=1, label="--max-wait")
    axes.yaxis.set_major_formatter(lambda wait, _: f"{wait:g}")
    axes.set_ylabel("waiting time, ms")
    axes.set_title("Waiting time against capacity", fontsize=10)
