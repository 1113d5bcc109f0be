"""
A sweep as one HTML page that needs nothing else: the picture is in it, and so are the numbers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .6rem; text-align: right; white-space: nowrap }
th:last-child, td:last-child { text-align: left }
tr.chosen { background: #e3f4e3 }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto }
img { max-width: 100% }
div { overflow-x: auto }
"""


def page(
    sweep: Mapping[str, Any],
    described: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    legend: str,
    picture: bytes,
) -> str:
    """Return the page. ``rows`` belong to the sweep's runs, one by one; ``picture`` is a PNG."""
    advice = sweep["advice"]
    deployment = sweep["deployment"]
    limits = sweep["limits"]
    chosen = advice["capacity"]
    lines = [
        f"<tr{' class=chosen' if run['capacity'] == chosen else ''}>{''.join(f'<td>{escape(cell)}' for cell in row)}"
        for run, row in zip(sweep["runs"], rows, strict=True)
    ]
    doubts = [f"<li>{run['capacity']}: {escape(' '.join(run['doubts']))}" for run in sweep["runs"] if run["doubts"]]
    setting = f"<pre>{escape(advice['setting'])}</pre>" if advice["setting"] else ""
    about = f"{deployment['name']} ({deployment['layer']} layer on {', '.join(deployment['hosts'])})"
    return "\n".join([
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Capacity of {escape(deployment['name'])}</title>",
        f"<style>{_STYLE}</style>",
        "<h1>Which capacity?</h1>",
        f"<p>{escape(about)}, {escape(sweep['made'])}, {sweep['seconds']:g} s for each capacity.</p>",
        f"<p>{escape(described)} At most {limits['max_loss']:.3%} may be lost, and p99 of waiting may be "
        f"{limits['max_wait']:g} s.</p>",
        *(f"<p><b>{escape(sentence)}</b></p>" for sentence in advice["text"]),
        setting,
        f'<img alt="loss and waiting time against capacity" src="data:image/png;base64,'
        f'{base64.b64encode(picture).decode()}">',
        "<h2>Numbers</h2>",
        f"<div><table><tr>{''.join(f'<th>{escape(name)}' for name in columns)}",
        *lines,
        "</table></div>",
        f"<p>{escape(legend)} The first tenth of each run is left out of losses and waiting times.</p>",
        *(["<h2>Unreliable runs</h2>", "<ul>", *doubts, "</ul>"] if doubts else []),
        "</html>",
        "",
    ])  # fmt: skip
