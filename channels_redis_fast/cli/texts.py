"""Formats numbers for people: sizes, durations, counts. Knows nothing of what they mean."""

from __future__ import annotations


def size(count: int | None) -> str:
    """Return a number of bytes as text, ``?`` if it is unknown."""
    if count is None:
        return "?"
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.3g} {unit}"


def duration(seconds: float | None) -> str:
    """Return a duration as text, ``-`` for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def counted(number: int, what: str) -> str:
    """Return a count with its noun, whose plural ends with ``s``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def known(number: int | None) -> str:
    """Return a number as text, ``?`` if it is unknown."""
    return "?" if number is None else f"{number:,}"
