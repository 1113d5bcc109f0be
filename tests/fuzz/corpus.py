"""The inputs that are kept: `tests/corpus/TARGET.txt`, one in each line, in hexadecimal.

They are what the fuzzer starts from and what the suite plays back. A line that begins with `#` says where the next ones
come from. `python -m tests.fuzz.corpus add TARGET FILE ...` keeps inputs that found something.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

KEPT = Path(__file__).resolve().parents[1] / "corpus"
# A repository is no place for more; the rest is found again in seconds.
MAX_SIZE = 400
MAX_COUNT = 250


def path_of(target: str) -> Path:
    return KEPT / f"{target}.txt"


def load(target: str) -> list[bytes]:
    """Return the kept inputs of a target."""
    lines = path_of(target).read_text().splitlines()
    return [bytes.fromhex(line) for line in lines if not line.startswith("#")]


def written_by_hand(target: str) -> list[str]:
    """The lines above those that the fuzzer found."""
    lines = path_of(target).read_text().splitlines() if path_of(target).exists() else []
    return lines[: lines.index(BRED)] if BRED in lines else lines


BRED = "# Bred by the fuzzer: the smallest of those that reached what none before them had."


def keep(target: str, inputs: Iterable[bytes]) -> int:
    """Replace the bred inputs of a target by the small ones among these; return how many there are."""
    by_hand = written_by_hand(target)
    small = sorted({data for data in inputs if 0 < len(data) <= MAX_SIZE}, key=sort_key)
    bred = [data.hex() for data in small[:MAX_COUNT] if data.hex() not in by_hand]
    path_of(target).write_text("\n".join([*by_hand, BRED, *bred]) + "\n")
    return len(bred)


def sort_key(data: bytes) -> tuple[int, bytes]:
    return len(data), data


def unpack(target: str, directory: Path) -> None:
    """Lay the kept inputs into a directory, one file each, as fuzzers want them."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(load(target)):
        (directory / f"kept{number:03}").write_bytes(data)


def add(target: str, paths: Iterable[str]) -> None:
    """Keep inputs that found something, above the bred ones."""
    by_hand = written_by_hand(target)
    rest = path_of(target).read_text().splitlines()[len(by_hand) :]
    found = [f"# Found {Path(path).name}" for path in paths]
    lines = [line for path, note in zip(paths, found, strict=True) for line in (note, Path(path).read_bytes().hex())]
    path_of(target).write_text("\n".join([*by_hand, *lines, *rest]) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] != "add":
        raise SystemExit(__doc__)
    add(sys.argv[2], sys.argv[3:])
