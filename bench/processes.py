"""Run contenders in processes of their own, each under the python that has its layer.

Knows how to start them and how to read their lines of JSON. Knows neither what they measure nor what it means.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.baseline import DIRECTORY
from bench.upstream import ROOT, ensure_python

#: Our layer that needs no server.
IN_MEMORY = "fast-memory"


#: How a row's name ends whose layer is that of another state of the package.
BASELINE = "-baseline"


class ContenderError(RuntimeError):
    """A contender ended without a result."""


@dataclass(frozen=True)
class Contender:
    """One row of a table: a layer by its name in `bench.contender.BACKENDS`, and the python to run it with.

    `family` is the kind of layer that ours and upstream's both are; `against` the one of upstream that ours replaces.
    With a `directory`, the package is imported from there: `bench.baseline`.
    """

    layer: str
    label: str
    python: Path
    family: str | None = None
    against: str | None = None
    directory: Path | None = None

    @property
    def name(self) -> str:
        """Of the row, which no two have in common."""
        return self.layer if self.directory is None else f"{self.layer}{BASELINE}"

    @property
    def ours(self) -> bool:
        return self.against is not None

    @property
    def peers(self) -> tuple[str | None, str | None]:
        """Upstream's layer that it stands beside in a table, and Channels' own that needs no server."""
        return self.against, "memory" if self.ours or self.layer == IN_MEMORY else None


FAMILIES = ("core", "pubsub")


def contenders(
    families: Sequence[str] = FAMILIES, *, everyone: bool = False, upstream: Path | None = None
) -> list[Contender]:
    """Ours before the one it replaces; the order of the rows and of the turns. The in-memory layers are always there.

    `everyone` adds our layers under our own consumers (`bench.dispatch`), and our pure twins and the floors, which
    nobody would use, but which say where the time goes. `upstream` is the python that has upstream's, by default one
    made for it.
    """
    here, upstream = Path(sys.executable), upstream or ensure_python()
    rows = [
        Contender("fast", "channels_redis_fast core", here, "core", "upstream"),
        Contender("upstream", "channels_redis 4.3 core", upstream, "core"),
        Contender("fast-pubsub", "channels_redis_fast Pub/Sub", here, "pubsub", "upstream-pubsub"),
        Contender("upstream-pubsub", "channels_redis 4.3 Pub/Sub", upstream, "pubsub"),
        Contender("memory", "InMemoryChannelLayer", here),
        Contender(IN_MEMORY, "channels_redis_fast in memory", here),
    ]
    if everyone:
        rows[1:1] = [Contender("fast-pure", "channels_redis_fast core, pure", here, "core", "upstream")]
        rows[4:4] = [
            Contender("fast-pubsub-pure", "channels_redis_fast Pub/Sub, pure", here, "pubsub", "upstream-pubsub")
        ]
        rows += dispatched(here)
        rows += [
            Contender("floor", "one raw socket, sorted sets", here, "core"),
            Contender("floor-pubsub", "one raw socket, Pub/Sub", here, "pubsub"),
            Contender("floor-tasks", "only tasks, no server", here),
            Contender("floor-tasks-direct", "only tasks, our consumers", here),
        ]
    return [row for row in rows if row.family is None or row.family in families]


def dispatched(here: Path) -> list[Contender]:
    """Our layers under other dispatches than Channels' own. The hand-written loop is a floor, and no product."""
    rows = []
    for layer, family, against in (("fast", "core", "upstream"), ("fast-pubsub", "pubsub", "upstream-pubsub")):
        name = "core" if family == "core" else "Pub/Sub"
        rows += [
            Contender(f"{layer}-direct", f"{name}, our consumers", here, family, against),
            Contender(f"{layer}-loop", f"{name}, hand-written loop", here, family),
        ]
    return rows


def knows(python: Path, module: str) -> bool:
    """Whether that python can import the module."""
    script = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([str(python), "-c", script], check=False).returncode == 0


def beside(directory: Path) -> list[Contender]:
    """Each of our layers and, right behind it, the same of the package in that directory.

    Without the pure twins, and without the hand-written loop, which is a floor.
    """
    # No row of upstream's is left, so its venv is not asked for.
    rows = contenders(everyone=True, upstream=Path(sys.executable))
    ours = [row for row in rows if row.layer.startswith("fast") and not row.layer.endswith(("-pure", "-loop"))]
    return [
        turn
        for row in ours
        for turn in (row, replace(row, label=f"{row.label}, baseline", against=None, directory=directory))
    ]


def lines_of(
    python: Path, module: str, arguments: list[str], timeout: float, directory: Path | None = None
) -> Iterator[dict[str, Any]]:
    """The JSON lines a module prints, as they come. Anything but a clean end is an error, with what it said.

    With a `directory` it imports our package from there.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", DIRECTORY: str(directory or "")}
    process = subprocess.Popen(
        [str(python), "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    listener = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
    listener.start()
    alarm = threading.Timer(timeout, process.kill)
    alarm.start()
    try:
        for line in process.stdout:
            yield json.loads(line)
        code = process.wait()
    finally:
        alarm.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        # Ends with the process, unless somebody whom it started still has its end of the pipe.
        listener.join(5.0)
        if not listener.is_alive():
            process.stderr.close()
    if code == -signal.SIGKILL:
        said.append(f"killed, after {timeout:g} s at the latest\n")
    if code != 0:
        raise ContenderError(f"{module} {' '.join(arguments)} failed with code {code}:\n{''.join(said[-15:])}")


def result_of(
    python: Path, module: str, arguments: list[str], timeout: float, directory: Path | None = None
) -> dict[str, Any]:
    """The last line of a module that prints its result last."""
    result = None
    for line in lines_of(python, module, arguments, timeout, directory):
        result = line
    if result is None:
        raise ContenderError(f"{module} {' '.join(arguments)} printed no result")
    return result
