"""The package's imports as a graph of its folders, and `docs/images/architecture.svg`, which is drawn from it.

`python -m tests.architecture` draws the picture again. Reads source text and imports nothing of the package.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "channels_redis_fast"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

#: The floors of the house, the highest first. A module imports from its own folder and from floors below.
FLOORS = (
    ("__main__", "management"),
    ("cli", "live"),
    ("apps", "pytest_plugin"),
    ("checks", "opentelemetry", "prometheus", "testing", "deploy"),
    ("consumers", "survey"),
    ("core", "memory", "pubsub"),
    ("base",),
    ("names", "sync"),
    ("history", "presence", "subscriptions"),
    ("cluster", "messages", "utils"),
    ("connection", "loops", "serializers", "stalls"),
    ("stats",),
    ("drain", "hot", "options", "process", "upstream"),
)

#: What each folder, or file at the top, is for: the second line of its box.
PURPOSES = {
    "cli": "inspect, check, tune, bench",
    "live": "the page that moves",
    "consumers": "Channels' consumers, direct",
    "survey": "what is in Redis, looked at",
    "core": "the layer on sorted sets",
    "pubsub": "the layer on Pub/Sub",
    "memory": "the layer without a server",
    "testing": "what tests need",
    "names": "which are valid",
    "deploy": "SIGTERM, workers",
    "management": "commands of manage.py",
    "drain": "who was told to go",
    "base": "what both layers share",
    "subscriptions": "SUBSCRIBE, on servers and clusters",
    "history": "what groups were sent, kept",
    "presence": "who is there, who lives",
    "sync": "calls from synchronous code",
    "cluster": "slots and their queues",
    "messages": "codecs and mailboxes",
    "connection": "sockets, requests, replies",
    "hot": "compiled, or its pure twin",
    "loops": "state of each event loop",
    "serializers": "msgpack, JSON, Fernet",
    "utils": "names of channels_redis",
    "options": "settings, checked",
    "process": "which process this is",
    "stats": "counters, measurements",
    "stalls": "loops that stand still",
    "opentelemetry": "spans for messages",
    "upstream": "names of channels_redis",
    "checks": "system checks",
    "prometheus": "collector",
    "apps": "the Django app",
    "pytest_plugin": "fixtures",
    "__main__": "python -m",
}


def modules() -> dict[str, Path]:
    """The package's modules by name, without the package's own: ``core.layer``; a folder by its ``__init__``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and not name.startswith("_ext"):
            found[name] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """By module, the modules of the package that it imports anywhere, also for type checkers only."""
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        graph[name] = {target for target in _targets(path, package, known) if target != name}
    return graph


def _targets(path: Path, package: list[str], known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            candidates = [alias.name.removeprefix("channels_redis_fast.") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").partition(".")[0] == "channels_redis_fast":
                base = []
            else:
                continue
            base = base + (node.module or "").removeprefix("channels_redis_fast").strip(".").split(".")
            start = ".".join(part for part in base if part)
            candidates = [f"{start}.{alias.name}".strip(".") for alias in node.names]
            candidates = [candidate if candidate in known else start for candidate in candidates]
        else:
            continue
        yield from (candidate for candidate in candidates if candidate in known)


def folder_of(module: str) -> str:
    """The folder, or the file at the top, in which a module is."""
    return module.partition(".")[0]


def edges() -> set[tuple[str, str]]:
    """Which folder imports from which."""
    return {
        (folder_of(module), folder_of(target))
        for module, targets in imports().items()
        for target in targets
        if folder_of(module) != folder_of(target)
    }


def draw() -> str:
    """The folders on their floors, with an arrow for each import that no longer way of arrows implies."""
    width, height, gap_x, gap_y = 200, 48, 24, 44
    floors = [[name for name in floor if name in {folder_of(module) for module in modules()}] for floor in FLOORS]
    floors = [floor for floor in floors if floor]
    total = max(len(floor) for floor in floors) * (width + gap_x) + gap_x
    place = {}
    for row, floor in enumerate(floors):
        left = (total - len(floor) * (width + gap_x) + gap_x) / 2
        for column, name in enumerate(floor):
            place[name] = (left + column * (width + gap_x), 16 + row * (height + gap_y))
    bottom = 16 + len(floors) * (height + gap_y)
    shown = edges()
    direct = {edge for edge in shown if not _is_implied(edge, shown)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:g} {bottom:g}" font-family="sans-serif">',
        "<title>Folders of channels_redis_fast and what they import; every arrow points down</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#7a8699"/></marker></defs>',
    ]
    for start, end in sorted(direct):
        (x1, y1), (x2, y2) = place[start], place[end]
        lines.append(
            f'<line x1="{x1 + width / 2:g}" y1="{y1 + height:g}" x2="{x2 + width / 2:g}" y2="{y2 - 2:g}" '
            'stroke="#7a8699" stroke-width="1.3" marker-end="url(#tip)"/>'
        )
    for name, (x, y) in place.items():
        lines += [
            f'<rect x="{x:g}" y="{y:g}" width="{width}" height="{height}" rx="7" fill="#eef2f8" stroke="#5b6b86"/>',
            f'<text x="{x + width / 2:g}" y="{y + 20:g}" text-anchor="middle" font-size="14" font-weight="600" '
            f'fill="#1b2738">{escape(name)}</text>',
            f'<text x="{x + width / 2:g}" y="{y + 37:g}" text-anchor="middle" font-size="11" fill="#44536b">'
            f"{escape(PURPOSES[name])}</text>",
        ]
    return "\n".join([*lines, "</svg>", ""])


def _is_implied(edge: tuple[str, str], shown: set[tuple[str, str]]) -> bool:
    start, end = edge
    seen: set[str] = set()
    ahead = [target for source, target in shown if source == start and target != end]
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += [target for source, target in shown if source == name]
    return end in seen


if __name__ == "__main__":
    PICTURE.write_text(draw())
    sys.stdout.write(f"{PICTURE}\n")
