"""The data that coverage.py wrote into the current directory: `python -m tests.packaging.coverage_data COMMAND`.

`drop-incomplete`, before the files of all processes are combined, removes those of processes that were killed while
they wrote. `measured`, after that, prints the files that were measured, a line each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import coverage
from coverage.exceptions import DataError

CYTHON = (".pyx", ".pxd")


def is_complete(path: Path) -> bool:
    """Whether a file of data has its tables, and says of each Cython source that it is one. Else combining fails."""
    data = coverage.CoverageData(str(path))
    try:
        data.read()
        return all(data.file_tracer(name) for name in data.measured_files() if name.endswith(CYTHON))
    except DataError:
        return False
    finally:
        data.close()


def drop_incomplete() -> None:
    for path in sorted(Path().glob(".coverage.*")):
        if not is_complete(path):
            print("left out:", path)
            path.unlink()


def measured() -> None:
    """Sorted, and so a module before its .pxd: Cython's plugin knows a .pxd only by the modules before it."""
    data = coverage.CoverageData()
    data.read()
    print(*sorted(data.measured_files()), sep="\n")


if __name__ == "__main__":
    {"drop-incomplete": drop_incomplete, "measured": measured}[sys.argv[1]]()
