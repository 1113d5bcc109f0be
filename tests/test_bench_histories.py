"""The bench of histories: a small turn of each part. What it measured is not looked at."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import pytest
from rich.console import Console

from bench import histories
from bench.server import Server

SMALL = {
    "ALONE": 5,
    "BROADCASTS": 2,
    "LARGE": 10,
    "CLIENTS": 10,
    "MISSED": 3,
    "NEAR": 2,
    "SENDERS": 4,
    "SEALED": 2,
    "PROCESSES": 1,
}


@pytest.mark.parametrize("part", histories.PARTS)
def test_one_turn_of_each_part(part: str, own_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(histories, name, value)
    console = Console(file=io.StringIO(), width=200)
    asyncio.run(histories.PARTS[part](own_server(), 1, console))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert part in said
    if part == "sealed":
        assert said.count(" 0 of 8 refused") == 4
