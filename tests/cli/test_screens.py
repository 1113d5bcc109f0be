"""`inspect` and `check` on terminals of 80, 100 and 120 columns, with the names and numbers of a large site."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from channels_redis_fast.cli.check import view as check_view
from channels_redis_fast.cli.check.findings import OK, PROBLEM, UNSEEN, WARNING, Finding, Report, Subject
from channels_redis_fast.cli.inspect.view import Screen, render
from channels_redis_fast.survey.snapshot import (
    Channel,
    Group,
    History,
    Leases,
    Leftover,
    Picture,
    Presence,
    Shard,
    Subscription,
)
from tests.cli.screens import same_as_expected, shown

WIDTHS = pytest.mark.parametrize("width", [80, 100, 120])

#: As ElastiCache has them.
HOST = "master.chat-production-0001.abcdef.euc1.cache.amazonaws.com:6379"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shards(*, slots: int | None = None) -> list[Shard]:
    ours = {"core:commands": 128, "core:receiver": 64, "pubsub:publisher": 12, "pubsub:subscriber": 12}
    good = {
        "server": "valkey",
        "version": "8.0.1",
        "role": "master",
        "memory": 12_345_678_901,
        "max_memory": 16_000_000_000,
        "operations_per_second": 1_234_567,
        "clients": 12_345,
        "connections": ours,
        "slots": slots,
    }
    return [
        Shard(0, HOST, **good),
        Shard(1, "10.0.0.2:6379", error="10.0.0.2:6379: Authentication required.", reason="password required"),
        Shard(
            2,
            "10.0.0.3:6379",
            **{**good, "connections": None},
            refused=["INFO", "CLIENT LIST"],
            complete=False,
            keys=12_345_678,
            keys_examined=100_000,
            nameless_receivers=7,
        ),
    ]


def core() -> Picture:
    specific = "specific.3f2a9b8c7d6e5f4a3b2c1d0e9f8a7b6c!"
    picture = Picture("CHANNEL_LAYERS['default']", "core", "chat-production", 1_795_000_000.0, shards())
    picture.channels = [
        Channel("thumbnails.of.uploaded.pictures.high-priority", 0, 1_234_567, 89_012, 4321.0, 987_654_321, 1_234_567,
                1.0, True, 50.0),
        *(Channel(specific, n, 100 - n, n, 3.2 + n, 1590 + n, 100, (100 - n) / 100, n != 1, 50.0) for n in range(5)),
    ]  # fmt: skip
    picture.groups = [
        Group(f"room.{n}.of.organisation.0a1b2c3d-4e5f-6789-abcd-ef0123456789", n, 1_234_567 - n, n, 98_765_432, 86_400)
        for n in range(6)
    ]
    picture.histories = [
        History(f"room.{n}.of.organisation.0a1b2c3d-4e5f-6789-abcd-ef0123456789", n, 10_000 - n, 5_000_000, 3.5, 3600)
        for n in range(3)
    ]
    picture.presences = [Presence("lobby", 0, 1_234_567, 128, 98_765_432, 86_400)]
    picture.leases = [Leases(0, 128, 3)]
    picture.leftovers = [
        Leftover("chat-productionthumbnails.of.uploaded.pictures.high-priority$inflight", 0, "inflight", 17, 4321)
    ]
    return picture


def pubsub() -> Picture:
    picture = Picture("--cluster", "pubsub", "chat", 1_795_000_000.0, shards(slots=5461))
    name = "0a1b2c3d-4e5f-6789-abcd-ef0123456789"
    picture.subscribed_groups = [Subscription(f"room.{n}.of.organisation.{name}", n, 1_234_567) for n in range(4)]
    picture.subscribed_channels = [Subscription(f"chatspecific.{n}.{name.replace('-', '')}", n, 1) for n in range(4)]
    return picture


PICTURES = {"core": core, "pubsub": pubsub}


@WIDTHS
@pytest.mark.parametrize("kind", PICTURES)
def test_inspect(kind: str, width: int) -> None:
    same_as_expected(f"inspect-{kind}-{width}", shown(render(PICTURES[kind](), 4), width))


@WIDTHS
def test_check(width: int) -> None:
    report = Report("CHANNEL_LAYERS['default']", "core", "chat-production", 1_795_000_000.0)
    key = "chat-production:history:{chat-production:group:room.1.of.organisation.0a1b2c3d-4e5f-6789-abcd-ef0123456789}"
    report.subjects = [
        Subject(None, "settings", [Finding(OK, "options", "no problems found")]),
        Subject(
            0,
            HOST,
            [
                Finding(OK, "reachability", "connected"),
                Finding(WARNING, "leftovers", f"1 key without an expiry ({key})", "Find its writer, and UNLINK it."),
                Finding(PROBLEM, "role", "a replica: it refuses writes", f"Name the primary of {HOST}."),
                Finding(UNSEEN, "peers' settings", "SCAN may not be used"),
            ],
        ),
    ]
    same_as_expected(f"check-{width}", shown(check_view.render(report), width))


def screen(picture: Picture, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, color_system=None, legacy_windows=False, force_terminal=True)
    with console.capture() as captured:
        console.print(Screen(picture, 20), height=height)
    return re.sub(r"\x1b\[\d*m", "", captured.get()).splitlines()


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("height", [3, 10, 24, 40, 60, 200])
def test_a_screen_has_as_many_lines_as_fit(kind: str, height: int) -> None:
    picture = PICTURES[kind]()
    lines = screen(picture, 100, height)
    assert len(lines) <= height
    whole = shown(render(picture, 20), 100)
    if len(whole) <= height:
        assert [line.rstrip() for line in lines] == whole
    else:
        assert "a taller terminal, --json" in " ".join(lines)


def test_every_table_keeps_rows_where_the_screen_is_small() -> None:
    lines = screen(core(), 100, 45)
    text = "\n".join(lines)
    for title in ("Shards", "Channels", "Groups", "Histories", "Presence", "Leases", "Leftovers"):
        assert re.search(rf"^{title}", text, re.MULTILINE), title
    # And most of the screen is used.
    assert len(lines) > 35
