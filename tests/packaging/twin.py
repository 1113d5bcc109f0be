"""Fail unless the twin that is in use is the one that is meant: `python -m tests.packaging.twin compiled|pure`."""

from __future__ import annotations

import sys

from channels_redis_fast import hot


def main(meant: str) -> None:
    """Raise `SystemExit` for the other twin, and for a word that names none."""
    found = "compiled" if hot.COMPILED else "pure"
    if meant != found:
        raise SystemExit(f"not {meant}: {hot.__file__} is {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
