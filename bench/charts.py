"""The charts of docs/performance.md, drawn from the tables of docs/performance-tables.md: `python -m bench.charts`.

One chart answers one question. Each is an SVG of the width of a phone, in colors of the reader's light or dark scheme,
on a background of its own: it can be read wherever it is shown. The same tables give the same bytes. Knows the text of
the tables; measures nothing.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.cases import CASES
from bench.tables import number
from bench.upstream import ROOT

#: By the title of a table, by the first cell of a row, and by the heading of a column: the text of a cell.
Tables = Mapping[str, Mapping[str, Mapping[str, str]]]

PAGE = ROOT / "docs" / "performance-tables.md"
IMAGES = ROOT / "docs" / "images"

WIDTH = 440.0
MARGIN = 16.0
TEXT = 13.0
#: From one line of text to the next.
LINE = 18.0

THEIRS, THEIRS_PUBSUB = "channels_redis 4.3 core", "channels_redis 4.3 Pub/Sub"
OURS, OURS_PUBSUB = "channels_redis_fast core", "channels_redis_fast Pub/Sub"
IN_MEMORY, ONLY_TASKS = "InMemoryChannelLayer", "only tasks, no server"

#: Classes of color: the one in a light scheme, and in a dark one.
COLORS = {
    "ours": ("#0969da", "#58a6ff"),
    "ours2": ("#1a7f37", "#3fb950"),
    "theirs": ("#cf222e", "#ff7b72"),
    "theirs2": ("#9a6700", "#e3b341"),
    "memory": ("#8250df", "#bc8cff"),
    "floor": ("#6e7781", "#8b949e"),
}


# The tables.


def tables_of(page: str) -> Tables:
    """The first table below each heading of the third level."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for section in re.split(r"^### ", page, flags=re.M)[1:]:
        title, _, text = section.partition("\n")
        text = re.split(r"^## ", text, maxsplit=1, flags=re.M)[0]
        lines = [line for line in text.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if len(rows) > 2:
            heading = rows[0][1:]
            found[title] = {row[0]: dict(zip(heading, row[1:], strict=False)) for row in rows[2:]}
    return found


def value_of(tables: Tables, case: str, row: str, column: str) -> float | None:
    """A number of a table; None where it has none. `case` is the name of a case, whose title is that of its table."""
    text = tables.get(CASES[case].title, {}).get(row, {}).get(column, "")
    try:
        return float(text.strip("*").replace(",", ""))
    except ValueError:
        return None


# Drawing.


class Canvas:
    """Lines of an SVG, from top to bottom: `y` is where the next thing begins."""

    def __init__(self, title: str, note: str) -> None:
        self.title = title
        self.note = note
        self.lines: list[str] = []
        self.y = MARGIN + 4
        self.text(MARGIN, title, "title")
        self.text(MARGIN, note, "muted")
        self.y += 6

    def text(self, x: float, text: str, kind: str = "", *, anchor: str = "", down: bool = True) -> None:
        """A line of text; the next one is below it if `down`."""
        kind = f' class="{kind}"' if kind else ""
        anchor = f' text-anchor="{anchor}"' if anchor else ""
        self.lines.append(f'<text x="{x:g}" y="{self.y + TEXT:g}"{kind}{anchor}>{escape(text)}</text>')
        self.y += LINE if down else 0

    def bar(self, x: float, width: float, height: float, color: str) -> None:
        self.lines.append(
            f'<rect x="{x:g}" y="{self.y:g}" width="{max(width, 1):.1f}" height="{height:g}" rx="2" class="{color}"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.lines.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def curve(self, points: Sequence[tuple[float, float]], color: str, dashes: str) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.lines.append(f'<polyline points="{path}" class="{color} curve"{dashed}/>')
        for x, y in points:
            self.dot(x, y, color)

    def dot(self, x: float, y: float, color: str) -> None:
        self.lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{color}"/>')

    def svg(self) -> str:
        height = self.y + MARGIN
        light = "".join(f".{name}{{fill:{color}}}" for name, (color, _) in COLORS.items())
        dark = "".join(f".{name}{{fill:{color}}}" for name, (_, color) in COLORS.items())
        lines = "".join(f".{name}.curve{{fill:none;stroke:{color}}}" for name, (color, _) in COLORS.items())
        dark_lines = "".join(f".{name}.curve{{stroke:{color}}}" for name, (_, color) in COLORS.items())
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * 1.3:g}" viewBox="0 0 {WIDTH:g} {height:g}" '
            'role="img" aria-labelledby="title note" font-family="system-ui, sans-serif" '
            f'font-size="{TEXT:g}">',
            f'<title id="title">{escape(self.title)}</title>',
            f'<desc id="note">{escape(self.note)}</desc>',
            "<style>",
            "text{fill:#1f2328}.title{font-weight:600;font-size:15px}.head{font-weight:600}.muted{fill:#59636e}",
            ".card{fill:#ffffff;stroke:#d1d9e0}.grid{stroke:#d1d9e0}.axis{stroke:#818b98}.curve{stroke-width:2}",
            light + lines,
            "@media (prefers-color-scheme: dark){",
            "text{fill:#e6edf3}.muted{fill:#9198a1}",
            ".card{fill:#151b23;stroke:#3d444d}.grid{stroke:#3d444d}.axis{stroke:#9198a1}",
            dark + dark_lines,
            "}",
            "</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1:g}" height="{height - 1:g}" rx="8" class="card"/>',
            *self.lines,
            "</svg>",
            "",
        ])  # fmt: skip


@dataclass(frozen=True)
class Row:
    label: str
    value: float | None
    color: str


def bars(title: str, note: str, groups: Iterable[tuple[str, Sequence[Row]]], *, one_scale: bool = True) -> str | None:
    """
    One bar for each row, below its label and with its number behind it. Groups of different units have each a scale of
    their own. None when no row has a number.
    """
    present = [(head, [row for row in rows if row.value is not None]) for head, rows in groups]
    present = [(head, rows) for head, rows in present if rows]
    if not present:
        return None
    largest = [max(row.value or 0 for row in rows) for _, rows in present]
    if one_scale:
        largest = [max(largest)] * len(present)
    canvas = Canvas(title, note)
    # Room for the longest number behind the longest bar.
    width = WIDTH - 2 * MARGIN - 70
    for (head, rows), most in zip(present, largest, strict=True):
        if head:
            canvas.text(MARGIN, head, "head")
        for row in rows:
            canvas.text(MARGIN, row.label)
            canvas.y += 2
            length = width * (row.value or 0) / (most or 1)
            canvas.bar(MARGIN, length, 14, row.color)
            canvas.y -= 1
            canvas.text(MARGIN + max(length, 1) + 6, number(row.value or 0), "head")
            canvas.y += 4
        canvas.y += 6
    canvas.y -= 6
    return canvas.svg()


@dataclass(frozen=True)
class Curve:
    label: str
    points: Sequence[tuple[float, float]]
    color: str
    dashes: str = ""


def microseconds(value: float) -> str:
    """Of a power of ten, in a unit that keeps it short."""
    unit, size = ("s", 1e6) if value >= 1e6 else ("ms", 1e3) if value >= 1e3 else ("µs", 1.0)
    return f"{value / size:g} {unit}"


def curves(
    title: str, note: str, x_axis: str, lines: Iterable[Curve], label: Callable[[float], str] = "{:,.0f}".format
) -> str | None:
    """
    Lines over two logarithmic axes, with what they are above them; `label` writes a power of ten beside its line. None
    when no line has two points.
    """
    present = [line for line in lines if len(line.points) > 1]
    if not present:
        return None
    canvas = Canvas(title, note)
    for line in present:
        at = canvas.y + TEXT - 4
        canvas.curve([(MARGIN, at), (MARGIN + 30, at)], line.color, line.dashes)
        canvas.text(MARGIN + 42, line.label)
    left, right, top, height = MARGIN + 68, WIDTH - MARGIN - 12, canvas.y + 14, 230.0
    xs = sorted({x for line in present for x, _ in line.points})
    ys = [y for line in present for _, y in line.points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - math.log10(xs[0])) / (math.log10(xs[-1]) - math.log10(xs[0]))
        up = (math.log10(y) - low) / max(high - low, 1)
        return left + across * (right - left), top + (1 - up) * height

    for power in range(low, high + 1):
        _, y = place(xs[0], 10.0**power)
        canvas.line(left, y, right, y, "grid")
        canvas.y = y - TEXT + 4
        canvas.text(left - 8, label(10.0**power), "muted", anchor="end", down=False)
    canvas.y = top + height + 4
    for x in xs:
        canvas.text(place(x, 10.0**low)[0], f"{x:,.0f}", "muted", anchor="middle", down=False)
    canvas.y += LINE
    canvas.text((left + right) / 2, x_axis, "muted", anchor="middle")
    for line in present:
        canvas.curve([place(x, y) for x, y in line.points], line.color, line.dashes)
    return canvas.svg()


def ratios(title: str, note: str, rows: Sequence[tuple[str, Sequence[Row]]]) -> str | None:
    """Dots on a logarithmic track, one track for each row of ratios, below its label. None without rows."""
    present = [(label, [dot for dot in dots if dot.value]) for label, dots in rows]
    present = [(label, dots) for label, dots in present if dots]
    if not present:
        return None
    values = [dot.value or 1 for _, dots in present for dot in dots]
    high = max(math.ceil(math.log10(max(values))), 1)
    low = min(math.floor(math.log10(min(values))), 0)
    canvas = Canvas(title, note)
    for label, color in {dot.label: dot.color for _, dots in present for dot in dots}.items():
        canvas.dot(MARGIN + 4, canvas.y + TEXT - 4, color)
        canvas.text(MARGIN + 16, label)
    canvas.y += 4
    left, right = MARGIN, WIDTH - MARGIN - 10

    def place(value: float) -> float:
        return left + (math.log10(value) - low) / (high - low) * (right - left)

    top = canvas.y
    tracks = []
    canvas.y += LINE
    for label, dots in present:
        canvas.text(MARGIN, label)
        canvas.y -= LINE
        said = ", ".join(f'<tspan class="{dot.color}">{number(dot.value or 0)} ×</tspan>' for dot in dots)
        canvas.lines.append(
            f'<text x="{WIDTH - MARGIN:g}" y="{canvas.y + TEXT:g}" class="head" text-anchor="end">{said}</text>'
        )
        canvas.y += LINE
        tracks.append(canvas.y + 6)
        canvas.line(left, canvas.y + 6, right, canvas.y + 6, "grid")
        for dot in dots:
            canvas.dot(place(dot.value or 1), canvas.y + 6, dot.color)
        canvas.y += 16
    end = canvas.y
    for power in range(low, high + 1):
        at = place(10.0**power)
        for track in tracks:
            canvas.line(at, track - 4, at, track + 4, "axis")
        for y in (top, end - 4):
            canvas.y = y
            anchor = "start" if power == low else "end" if power == high else "middle"
            canvas.text(at, f"{10.0**power:g} ×", "muted", anchor=anchor, down=False)
    canvas.y = end + LINE - 6
    return canvas.svg()


# The charts.

FAMILIES = (("core layer", OURS, THEIRS, "ours"), ("Pub/Sub layer", OURS_PUBSUB, THEIRS_PUBSUB, "ours2"))
PER_SECOND = "per s"


def site_rows(tables: Tables, case: str, column: str) -> list[tuple[str, list[Row]]]:
    """Whole sites with real clients: what they were, and what they can be."""
    groups = []
    for family, ours, theirs, color in FAMILIES:
        short = family.removesuffix(" layer")
        contenders = (
            ("channels_redis 4.3", theirs, "theirs"),
            ("channels_redis_fast, Channels' consumers", ours, color),
            ("channels_redis_fast, direct consumers", f"{short}, our consumers", color),
            ("no consumers: a hand-written loop", f"{short}, hand-written loop", "floor"),
        )
        rows = [Row(label, value_of(tables, case, row, column), kind) for label, row, kind in contenders]
        groups.append((family[0].upper() + family[1:], rows))
    return groups


def frames_to_browsers(tables: Tables) -> str | None:
    return bars(
        "Frames per second to 1,000 WebSockets",
        "uvicorn, one room, one core for the server",
        site_rows(tables, "sockets-1000", PER_SECOND),
    )


def last_browser(tables: Tables) -> str | None:
    return bars(
        "Until the last of 1,000 WebSockets has its frame",
        "p99 from group_send, in ms; shorter is better",
        site_rows(tables, "sockets-1000", "p99 ms"),
    )


def messages_through_a_layer(tables: Tables) -> str | None:
    def row(label: str, name: str, color: str) -> Row:
        return Row(label, value_of(tables, "pairs", name, PER_SECOND), color)

    groups = [
        (
            family[0].upper() + family[1:],
            [
                row("channels_redis 4.3", theirs, "theirs"),
                row("channels_redis_fast, pure Python", f"{ours}, pure", color),
                row("channels_redis_fast", ours, color),
            ],
        )
        for family, ours, theirs, color in FAMILIES
    ]
    without = [row("InMemoryChannelLayer", IN_MEMORY, "memory"), row("only waking the tasks", ONLY_TASKS, "floor")]
    return bars(
        "Messages per second through a layer",
        "50 senders, 50 receivers, one process",
        [*groups, ("Without a server", without)],
    )


#: The contenders of a chart with lines: label, row of the tables, color, dashes.
LINES = (
    ("channels_redis_fast core", OURS, "ours", ""),
    ("channels_redis_fast Pub/Sub", OURS_PUBSUB, "ours2", ""),
    ("channels_redis 4.3 core", THEIRS, "theirs", "6 4"),
    ("channels_redis 4.3 Pub/Sub", THEIRS_PUBSUB, "theirs2", "6 4"),
    ("InMemoryChannelLayer", IN_MEMORY, "memory", "2 4"),
)


def lines_over(tables: Tables, points: Mapping[str, float], column: str) -> list[Curve]:
    found = []
    for label, row, color, dashes in LINES:
        values = [(x, value_of(tables, case, row, column)) for case, x in points.items()]
        found.append(Curve(label, [(x, y) for x, y in values if y], color, dashes))
    return found


def deliveries_to_a_group(tables: Tables) -> str | None:
    sizes = {name: case.parameters["consumers"] for name, case in CASES.items() if case.workload == "workloads:group"}
    return curves(
        "Deliveries per second to a group",
        "one process; higher is better",
        "members of the group",
        lines_over(tables, sizes, PER_SECOND),
    )


def latency_under_load(tables: Tables) -> str | None:
    loads = {name: case.parameters["rate"] for name, case in CASES.items() if case.workload == "loads:offered"}
    return curves(
        "From send to receive under load",
        "median; lower is better",
        "messages offered per second",
        lines_over(tables, loads, "p50 µs"),
        microseconds,
    )


def synchronous_calls(tables: Tables) -> str | None:
    def row(label: str, case: str, name: str, color: str) -> Row:
        return Row(label, value_of(tables, case, name, "p50 µs"), color)

    groups = [
        (
            family[0].upper() + family[1:],
            [
                row("channels_redis 4.3, async_to_sync", "sync_group", theirs, "theirs"),
                row("channels_redis_fast, async_to_sync", "sync_group", ours, color),
                row("channels_redis_fast, layer.sync", "sync_native", ours, color),
            ],
        )
        for family, ours, theirs, color in FAMILIES
    ]
    nothing = [row("async_to_sync of a function that does nothing", "sync_group", ONLY_TASKS, "floor")]
    return bars(
        "One group_send from synchronous code",
        "a group of 20; median in µs; shorter is better",
        [*groups, ("For comparison", nothing)],
    )


#: What the title of a case says at its end, and a chart of ratios need not.
UNITS = r"( in one room)?, (deliveries|frames|jobs|consumers|a group of 20)$"


def times_channels_redis(tables: Tables) -> str | None:
    rows = []
    for name, case in CASES.items():
        # How late a message is under load has a chart of its own, and its ratios have no bounds.
        if case.workload == "loads:offered":
            continue
        dots = []
        for family, ours, _, color in FAMILIES:
            # What a site gains is shown with what it would then use.
            row = f"{family.removesuffix(' layer')}, our consumers" if case.kind == "sockets" else ours
            dots.append(Row(family, value_of(tables, name, row, "× channels_redis"), color))
        rows.append((re.sub(UNITS, "", case.title), dots))
    return ratios("How many times channels_redis 4.3", "every case; to the right of 1 is better", rows)


CHARTS: dict[str, Callable[[Tables], str | None]] = {
    "frames-to-browsers": frames_to_browsers,
    "last-browser": last_browser,
    "messages-through-a-layer": messages_through_a_layer,
    "deliveries-to-a-group": deliveries_to_a_group,
    "latency-under-load": latency_under_load,
    "synchronous-calls": synchronous_calls,
    "times-channels-redis": times_channels_redis,
}


def draw(page: str, directory: Path) -> list[Path]:
    """Write the charts that the tables of the page have numbers for, and return the files."""
    tables = tables_of(page)
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, chart in CHARTS.items():
        svg = chart(tables)
        if svg is not None:
            path = directory / f"{name}.svg"
            path.write_text(svg, encoding="utf-8")
            drawn.append(path)
    return drawn


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.charts", description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE, help="the page with the tables")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the charts go")
    arguments = parser.parse_args(argv)
    drawn = draw(arguments.page.read_text(encoding="utf-8"), arguments.images)
    print(f"written: {', '.join(path.name for path in drawn)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
