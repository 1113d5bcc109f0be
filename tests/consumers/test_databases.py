"""
Database connections that handlers meet: the same on Channels' dispatch and on ours, on SQLite and on PostgreSQL.

Channels hops to the ORM's thread before every handler. Ours hops when that would change something: each test runs one
script on both, compares what every handler found, and looks at the hops.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from channels import db
from channels.db import database_sync_to_async
from django.db import DatabaseError, connections, models

from channels_redis_fast.consumers import databases
from tests.conftest import ROOT
from tests.consumers.postgres import Postgres, find_binaries, postgres_of
from tests.consumers.ways import Socket, Way, socket_of, way_of

_aliases = map("database{}".format, itertools.count())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="needs psycopg")
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("needs PostgreSQL: on Debian, apt-get install postgresql")
    with postgres_of(binaries) as server:
        yield server


class Database:
    """A database of one test, under an alias of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.alias = next(_aliases)
        self._options = options

    async def __aenter__(self) -> Database:
        connections.settings.update(connections.configure_settings({"default": {}, self.alias: self._options}))
        await sync_to_async(self._prepare)()
        return self

    def _prepare(self) -> None:
        with connections[self.alias].cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS note")
            cursor.execute("CREATE TABLE note (id integer PRIMARY KEY)")
        connections[self.alias].close()

    async def __aexit__(self, *error: Any) -> None:
        """Close what was opened in the ORM's thread: the next test has a wrapper of its own."""
        await sync_to_async(self._forget)()
        del connections.settings[self.alias]

    def _forget(self) -> None:
        connections[self.alias].close()
        del connections[self.alias]


@contextlib.asynccontextmanager
async def site_of(name: str, options: dict[str, Any]) -> AsyncIterator[tuple[Way, Database]]:
    """A dispatch and a database."""
    with way_of(name) as way:
        async with Database(options) as database:
            yield way, database


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a database."""
    if request.param == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "database")}
    return settings_of(request.getfixturevalue("postgres"))


def settings_of(postgres: Postgres) -> dict[str, Any]:
    place = {"HOST": "127.0.0.1", "PORT": str(postgres.port), "NAME": "postgres", "USER": "postgres"}
    return {"ENGINE": "django.db.backends.postgresql", **place}


@pytest.fixture(scope="module")
def note() -> type[models.Model]:
    """A model, as a site would have it."""
    django.setup()

    class Note(models.Model):
        id = models.IntegerField(primary_key=True)

        class Meta:
            app_label = "notes"
            db_table = "note"

    return Note


class Hops:
    """Counts the hops to the ORM's thread, and which of them changed nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, alias: str) -> None:
        self.count = 0
        self.useless = 0
        self.alias = alias
        self._hop = db.aclose_old_connections
        monkeypatch.setattr(db, "aclose_old_connections", self.hop)

    def state(self) -> Any:
        wrapper = connections[self.alias]
        return wrapper.connection, wrapper.errors_occurred, wrapper.health_check_enabled and wrapper.health_check_done

    async def hop(self) -> None:
        self.count += 1
        before = await sync_to_async(self.state)()
        await self._hop()
        self.useless += before == await sync_to_async(self.state)()


def scripted(way: Any, database: Database, note: Any, trace: list[Any]) -> Any:
    """A consumer that does with its database what its client says, and writes down what each handler found."""

    class Scripted(way.websocket):  # type: ignore[name-defined,misc]
        async def connect(self) -> None:
            await self.accept()
            await self.found()
            await self.query()

        async def found(self) -> None:
            trace.append(await sync_to_async(self.look)())

        def look(self) -> Any:
            wrapper = connections[database.alias]
            is_open = wrapper.connection is not None
            same = is_open and wrapper.connection is getattr(self, "last", None)
            self.last = wrapper.connection
            return is_open, same, wrapper.errors_occurred, wrapper.health_check_enabled and wrapper.health_check_done

        async def query(self) -> None:
            trace.append(await note.objects.using(database.alias).acount())

        async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
            await self.found()
            try:
                await getattr(self, f"do_{text_data}")()
            except DatabaseError as error:
                trace.append(type(error).__name__)
            # What the handler itself left behind is what the next one may meet.
            await sync_to_async(self.look)()
            await self.send(text_data=text_data)

        async def do_nothing(self) -> None:
            pass

        do_query = query

        async def do_thread(self) -> None:
            await database_sync_to_async(note.objects.using(database.alias).count)()

        async def do_background(self) -> None:
            await asyncio.ensure_future(self.query())

        async def do_error(self) -> None:
            await sync_to_async(self.execute)("SELECT nothing FROM nowhere")

        async def do_autocommit(self) -> None:
            await sync_to_async(self.leave_autocommit_off)()

        async def do_expire(self) -> None:
            await sync_to_async(self.expire)()

        def execute(self, statement: str) -> None:
            with connections[database.alias].cursor() as cursor:
                cursor.execute(statement)

        def leave_autocommit_off(self) -> None:
            connections[database.alias].set_autocommit(False)

        def expire(self) -> None:
            """As if its time were over."""
            if connections[database.alias].close_at is not None:
                connections[database.alias].close_at = time.monotonic()

        async def disconnect(self, code: int) -> None:
            await self.query()

    return Scripted


async def play(socket: Socket, script: str) -> None:
    for step in script.split():
        socket.say(step)
        assert await socket.text() == step


async def both(
    engine: dict[str, Any],
    note: Any,
    script: str,
    monkeypatch: pytest.MonkeyPatch,
    between: Callable[[], None] | None = None,
) -> tuple[list[Any], Hops, Hops]:
    """Run a script on both dispatches; return what they found, which is the same, and the hops of both."""
    traces: list[list[Any]] = []
    hops: list[Hops] = []
    for name in ("channels", "direct"):
        async with site_of(name, engine) as (way, database):
            trace: list[Any] = []
            with monkeypatch.context() as patched:
                hop = Hops(patched, database.alias)
                if way.is_channels:
                    patched.setattr("channels.consumer.aclose_old_connections", hop.hop)
                    patched.setattr("channels.generic.websocket.aclose_old_connections", hop.hop)
                async with socket_of(scripted(way, database, note, trace)) as socket:
                    await socket.accepted()
                    first, *rest = script.split("|")
                    await play(socket, first)
                    for part in rest:
                        assert between is not None
                        between()
                        await play(socket, part)
                # What the end left behind.
                connection, *others = await sync_to_async(hop.state)()
                trace.append((connection is not None, *others))
            traces.append(trace)
            hops.append(hop)
    assert traces[0] == traces[1]
    return traces[0], hops[0], hops[1]


@pytest.mark.parametrize("health_checks", [False, True])
@pytest.mark.parametrize("max_age", [0, 60, None])
async def test_what_handlers_meet(
    engine: dict[str, Any], note: Any, monkeypatch: pytest.MonkeyPatch, max_age: int | None, health_checks: bool
) -> None:
    script = (
        "query nothing nothing query error nothing query expire nothing query autocommit nothing query "
        "thread nothing background nothing error query query nothing"
    )
    options = {**engine, "CONN_MAX_AGE": max_age, "CONN_HEALTH_CHECKS": health_checks}
    _, channels, direct = await both(options, note, script, monkeypatch)
    assert channels.count == len(script.split()) + 3
    assert 0 < direct.count < channels.count
    assert direct.useless == 0


async def test_no_hop_without_a_query(engine: dict[str, Any], note: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that stays, and handlers that have nothing to do with it."""
    script = " ".join(["nothing"] * 20)
    _, channels, direct = await both({**engine, "CONN_MAX_AGE": None}, note, script, monkeypatch)
    assert channels.count == 23
    assert direct.count == 0


@pytest.mark.parametrize("health_checks", [False, True])
@pytest.mark.parametrize("max_age", [0, 60, None])
async def test_the_server_is_restarted(
    postgres: Postgres, note: Any, monkeypatch: pytest.MonkeyPatch, max_age: int | None, health_checks: bool
) -> None:
    """What a handler meets then depends on the settings, not on the dispatch."""
    options = {**settings_of(postgres), "CONN_MAX_AGE": max_age, "CONN_HEALTH_CHECKS": health_checks}
    trace, _, direct = await both(options, note, "query|query query query", monkeypatch, postgres.restart)
    assert ("OperationalError" in trace) == (max_age != 0 and not health_checks)
    assert direct.useless == 0


async def test_requests_have_threads_of_their_own(
    engine: dict[str, Any], note: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Django's requests open there, and leave open while they last, is no concern of consumers."""
    async with site_of("direct", {**engine, "CONN_MAX_AGE": 0}) as (way, database):

        class Quiet(scripted(way, database, note, [])):  # type: ignore[misc]
            async def found(self) -> None:
                pass

            async def query(self) -> None:
                pass

        async with socket_of(Quiet) as socket:
            await socket.accepted()
            hops = Hops(monkeypatch, database.alias)
            async with ThreadSensitiveContext():
                await note.objects.using(database.alias).acount()
                await play(socket, "nothing nothing")
                assert await sync_to_async(lambda: connections[database.alias].connection is not None)()
                await sync_to_async(connections.close_all)()
            assert hops.count == 0


async def test_opened_before_anybody_looked(engine: dict[str, Any], note: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that the first consumer of a process finds open is closed when its time is over, as any other."""
    async with site_of("direct", {**engine, "CONN_MAX_AGE": 0}) as (way, database):
        databases._threads.clear()
        await sync_to_async(databases._here.__dict__.clear)()
        await note.objects.using(database.alias).acount()
        hops = Hops(monkeypatch, database.alias)
        trace: list[Any] = []
        async with socket_of(scripted(way, database, note, trace)) as socket:
            await socket.accepted()
        assert trace[0][0] is False
        assert hops.useless == 0


async def test_a_context_entered_in_a_handler(engine: dict[str, Any], note: Any) -> None:
    """The connections that count are those of the thread that the consumer's queries run in now."""
    found = []
    for name in ("channels", "direct"):
        async with site_of(name, {**engine, "CONN_MAX_AGE": 0}) as (way, database):

            class Moves(scripted(way, database, note, [])):  # type: ignore[misc]
                async def do_enter(self) -> None:
                    self.context = ThreadSensitiveContext()
                    await self.context.__aenter__()

                async def do_leave(self) -> None:
                    await sync_to_async(connections.close_all)()
                    await self.context.__aexit__(None, None, None)

                async def do_look(self) -> None:
                    found.append(await sync_to_async(self.look)())

            async with socket_of(Moves) as socket:
                await socket.accepted()
                await play(socket, "enter look query look query look leave look query look")
    assert found[:5] == found[5:]


@pytest.mark.parametrize("case", ["TestCase", "TransactionTestCase"])
@pytest.mark.parametrize("name", ["channels", "direct", "installed"])
def test_in_django_tests(engine: dict[str, Any], case: str, name: str) -> None:
    """Consumers in a test see what the test has written, and the test what they have; transactions stay whole."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.consumers.project.orm_cases", case],
        cwd=ROOT,
        env={**os.environ, "SITE_DATABASE": json.dumps(engine), "SITE_CONSUMERS": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr
