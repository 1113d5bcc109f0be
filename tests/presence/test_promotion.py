"""A server that takes another's place without the last changes: a replica that is promoted, or one with an old dump."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from bench.server import Server
from channels_redis_fast.presence import groups, upkeep
from tests.core.helpers import until, within
from tests.presence.attending import joined, listen
from tests.presence.test_presence_faults import stand_still

Make = Callable[..., Any]

PRESENCE: dict[str, Any] = {"lease": 0.6, "grace": 0}

pytestmark = pytest.mark.usefixtures("short_leases")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "LATE", 0.2)


class Lagging:
    """A server whose place another one can take, which has what there was when `mark` was called."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.raw = redis.Redis.from_url(server.url)

    def mark(self) -> None:
        self.raw.save()

    async def promote(self) -> None:
        await within(asyncio.get_running_loop().run_in_executor(None, self.server.restart), 60)


@pytest.fixture
def lagging(own_server: Callable[..., Server]) -> Iterator[Lagging]:
    found = Lagging(own_server())
    yield found
    found.raw.close()


def holds_back(layer: Any) -> Callable[[], None]:
    """Have a layer restore nothing; returns what lets it go on."""
    found = layer._presences
    see_to_groups, found.upkeep._see_to_groups = found.upkeep._see_to_groups, lambda now: None
    callbacks, layer._leases._callbacks = layer._leases._callbacks, []

    def go_on() -> None:
        found.upkeep._see_to_groups = see_to_groups
        layer._leases._callbacks = callbacks

    return go_on


async def asked(layer: Any, user: bytes) -> None:
    """Have a layer ask whether a user is there, as one does whose events may be lost."""
    found = layer._presences
    group = found.find("room")
    found.confirm(group, {user: b""})
    await within(found.change(group, b"e"))


async def is_present(layer: Any, *users: Any) -> None:
    async def ask() -> None:
        while set(await layer.presence("room")) != set(users):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await within(ask())


async def test_a_departure_is_told_once(lagging: Lagging, make: Make) -> None:
    """Somebody asks before the process is back whose departure is lost."""
    layer, other = (make(hosts=[lagging.server.url], presence=PRESENCE) for _ in range(2))
    listener = await listen(other)
    ada = await joined(layer, "ada")
    await joined(layer, "bob")
    await joined(other, "carol")
    lagging.mark()
    await layer.presence_leave("room", ada)
    told = [("join", "ada"), ("join", "bob"), ("join", "carol"), ("leave", "ada")]
    await listener.heard(*told)
    go_on = holds_back(layer)
    await lagging.promote()
    await is_present(other, "ada", "bob", "carol")
    await asked(other, b"sada")
    await asked(other, b"scarol")
    go_on()
    await is_present(other, "bob", "carol")
    await asked(other, b"sada")
    await listener.heard(*told)
    await listener.end()


async def test_a_departure_that_others_have_told(lagging: Lagging, make: Make) -> None:
    """A user was about to leave when the server was away for so long that the process seemed to be gone."""
    layer, other = (make(hosts=[lagging.server.url], presence=PRESENCE | {"grace": 0.5}) for _ in range(2))
    listener = await listen(other)
    ada = await joined(layer, "ada")
    await joined(other, "carol")
    await layer.presence_leave("room", ada)
    lagging.mark()
    go_on, goes_on = holds_back(layer), stand_still(layer)
    await lagging.promote()
    await until(lambda: ("leave", "ada") in listener.events)
    go_on()
    goes_on()
    group = layer._presences.find("room")
    await until(lambda: group.server != upkeep.UNKNOWN and group.epoch == other._presences.find("room").epoch)
    await asked(other, b"sada")
    await is_present(other, "carol")
    await listener.heard(("join", "ada"), ("join", "carol"), ("leave", "ada"))
    await listener.end()


@pytest.mark.parametrize("comes_back", [False, True])
async def test_a_departure_that_its_process_has_forgotten(
    lagging: Lagging, make: Make, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    """It lives and has no part in the group any more, so that it restores nothing."""
    monkeypatch.setattr(groups, "RECENT", 0.0)
    layer, other = (make(hosts=[lagging.server.url], presence=PRESENCE) for _ in range(2))
    listener = await listen(other)
    ada = await joined(layer, "ada")
    await joined(other, "carol")
    lagging.mark()
    await layer.presence_leave("room", ada)
    told = [("join", "ada"), ("join", "carol"), ("leave", "ada")]
    await listener.heard(*told)
    await until(lambda: layer._presences.find("room") is None)
    await lagging.promote()
    if comes_back:
        await within(joined(layer, "bob"))
        await is_present(other, "bob", "carol")
        await until(lambda: len(listener.events) == 4)
        await listener.heard(*told, ("join", "bob"))
    else:
        await is_present(other, "carol")
        await listener.heard(*told)
    await listener.end()


async def test_departures_are_remembered_while_no_server_is_there(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that is: nobody knows what the next one lacks."""
    layer = make(presence=PRESENCE)
    await layer.presence_leave("room", await joined(layer, "ada"))
    found = layer._presences
    group = found.find("room")
    await until(lambda: not group.users)

    class Away:
        identity, dialer = upkeep.UNKNOWN, None

        def call(self, *arguments: Any, **options: Any) -> asyncio.Future[Any]:
            return asyncio.get_running_loop().create_future()

    with monkeypatch.context() as patch:
        patch.setattr(found, "way_to", lambda group: Away())
        found.upkeep._see_to_groups(time.monotonic() + 100 * groups.RECENT)
    assert b"sada" in group.untold
    found.upkeep._see_to_groups(time.monotonic() + 100 * groups.RECENT)
    assert not group.untold
