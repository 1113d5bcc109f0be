"""
A sweep as one self-contained HTML page: it includes the pictures and the numbers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .plots import Panel

_STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --paper: #fff; --line: #d0d7de; --box: #f6f8fa; --mark: #dafbe1 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #3d444d; --box: #161b22; --mark: #12361f }
}
body { font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem;
  color: var(--ink); background: var(--paper) }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper) }
th:last-child, td:last-child { text-align: left }
tr.chosen td { background: var(--mark) }
pre { background: var(--box); padding: .8rem; overflow-x: auto }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem }
.pictures img { width: 100% }
.numbers { overflow-x: auto }
"""


def page(
    sweep: Mapping[str, Any],
    about: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    legend: str,
    panels: Sequence[Panel],
) -> str:
    """Return the page. ``about``: sentences on what was asked; ``rows`` belong to the sweep's runs, one by one."""
    advice = sweep["advice"]
    deployment = sweep["deployment"]
    chosen = advice["capacity"]
    lines = [
        f"<tr{' class=chosen' if run['capacity'] == chosen else ''}>{''.join(f'<td>{escape(cell)}' for cell in row)}"
        for run, row in zip(sweep["runs"], rows, strict=True)
    ]
    doubts = [f"<li>{run['capacity']}: {escape(' '.join(run['doubts']))}" for run in sweep["runs"] if run["doubts"]]
    setting = f"<pre>{escape(advice['setting'])}</pre>" if advice["setting"] else ""
    where = f"{deployment['name']} ({deployment['layer']} layer on {', '.join(deployment['hosts'])})"
    pictures = [
        f'<img alt="{escape(panel.description)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(panel.svg.encode()).decode()}">'
        for panel in panels
    ]
    return "\n".join([
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Capacity for {escape(deployment['name'])}</title>",
        f"<style>{_STYLE}</style>",
        "<h1>Which capacity?</h1>",
        f"<p>{escape(where)}, {escape(sweep['made'])}, {sweep['seconds']:g} s for each capacity.</p>",
        *(f"<p>{escape(sentence)}</p>" for sentence in about),
        *(f"<p><b>{escape(sentence)}</b></p>" for sentence in advice["text"]),
        setting,
        '<div class="pictures">',
        *pictures,
        "</div>",
        "<h2>Numbers</h2>",
        f'<div class="numbers"><table><tr>{"".join(f"<th>{escape(name)}" for name in columns)}',
        *lines,
        "</table></div>",
        f"<p>{escape(legend)} The first tenth of each run is not counted in losses and waiting times.</p>",
        *(["<h2>Unreliable runs</h2>", "<ul>", *doubts, "</ul>"] if doubts else []),
        "</html>",
        "",
    ])  # fmt: skip
