"""`group_history` and `group_forget` on real servers: what is read, in which order, and when it is complete.

What is in a stream was put there by the script that records, called by a plain client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError, ReadOnlyError, ResponseError

from bench.server import Server
from channels_redis_fast.connection.identity import UNKNOWN
from channels_redis_fast.history import FIELD
from channels_redis_fast.history.positions import NO_EPOCH, WIDTH, Position
from tests.core.helpers import within
from tests.history.recording import ROOMY, group_key, identity_of, numbered, numbers, record, stream_of

Make = Callable[..., Any]
OwnServer = Callable[..., Server]

HISTORY = {"room*": ROOMY}


def entries(raw: Any, stream: Any) -> list[Any]:
    found: list[Any] = raw.xrange(stream.key)
    return found


# What is read.


async def test_all_that_is_kept(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    positions = record(raw, layer, *numbered(1, 5))
    history = await within(layer.group_history("room"))
    expected = zip(numbered(1, 5), positions, strict=True)
    assert history.messages == [{**message, FIELD: position} for message, position in expected]
    assert history.position == positions[-1]
    assert history.complete
    assert positions == sorted(positions)
    assert all(len(position) == WIDTH for position in positions)


async def test_what_is_behind_a_position(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    positions = record(raw, layer, *numbered(1, 5))
    for behind, position in enumerate(positions, 1):
        history = await within(layer.group_history("room", since=position))
        assert numbers(history) == list(range(behind + 1, 6))
        assert history.position == positions[-1]
        assert history.complete


async def test_nothing_yet_is_a_position_too(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    nothing = await within(layer.group_history("room"))
    assert nothing.messages == []
    assert nothing.complete
    again = await within(layer.group_history("room", since=nothing.position))
    assert again == nothing
    # The mark is one, however often somebody asks.
    assert len(entries(raw, stream_of(layer))) == 1
    record(raw, layer, *numbered(1, 2))
    history = await within(layer.group_history("room", since=nothing.position))
    assert numbers(history) == [1, 2]
    assert history.complete
    assert await within(layer.group_history("room")) == history


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7, 100])
async def test_pages_behind_a_position(make: Make, raw: Any, limit: int) -> None:
    """Each page is complete, and begins where the last one ended; the end is an empty one."""
    layer = make(history=HISTORY)
    start = await within(layer.group_history("room"))
    record(raw, layer, *numbered(1, 7))
    pages, position = [], start.position
    while True:
        page = await within(layer.group_history("room", since=position, limit=limit))
        assert page.complete
        if not page.messages:
            assert page.position == position
            break
        assert page.position == page.messages[-1][FIELD]
        pages.append(numbers(page))
        position = page.position
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert [n for page in pages for n in page] == list(range(1, 8))


@pytest.mark.parametrize(("limit", "is_whole"), [(1, False), (6, False), (7, True), (8, True)])
async def test_the_newest_of_all(make: Make, raw: Any, limit: int, is_whole: bool) -> None:
    layer = make(history=HISTORY)
    await within(layer.group_history("room"))
    positions = record(raw, layer, *numbered(1, 7))
    history = await within(layer.group_history("room", limit=limit))
    assert numbers(history) == list(range(max(1, 8 - limit), 8))
    assert history.position == positions[-1]
    assert history.complete is is_whole


async def test_thousands_of_messages(make: Make, raw: Any) -> None:
    """More than one command of the script reads."""
    layer = make(history=HISTORY)
    server = identity_of(raw)
    positions = record(raw, layer, *numbered(1, 2500), server=server)
    for limit in (None, 1500, 2500):
        history = await within(layer.group_history("room", since=positions[0], limit=limit))
        assert numbers(history) == list(range(2, 2501))[:limit]
        assert history.complete
        history = await within(layer.group_history("room", limit=limit))
        assert numbers(history) == list(range(1, 2501))[-(limit or 0) :]
        assert history.complete is (limit != 1500)


async def test_many_at_once(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    positions = {f"room{n}": record(raw, layer, *numbered(1, n), group=f"room{n}") for n in range(1, 20)}
    histories = await within(asyncio.gather(*(layer.group_history(group) for group in positions)))
    assert [[m[FIELD] for m in history.messages] for history in histories] == list(positions.values())


async def test_message_of_any_kind(make: Make, raw: Any) -> None:
    message = {"type": "t", "b": b"\x00\xff", "nested": {"a": [1, None, 2.5]}, FIELD: "something else"}
    layer = make(history=HISTORY)
    [position] = record(raw, layer, message)
    history = await within(layer.group_history("room"))
    assert history.messages == [{**message, FIELD: position}]


@pytest.mark.parametrize("options", [{"symmetric_encryption_keys": ["secret"]}, {"serializer_format": "json"}])
async def test_what_the_layers_own_codec_made(make: Make, raw: Any, options: dict[str, Any]) -> None:
    """Encrypted messages are read however old they are: no ttl is held against them."""
    layer = make(history=HISTORY, **options)
    body = layer._codec.encode({"n": 1}, None)
    positions = record(raw, layer, body, body)
    history = await within(layer.group_history("room", since=positions[0]))
    assert history.messages == [{"n": 1, FIELD: positions[1]}]
    assert history.complete


async def test_through_the_hub(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY, sync_hub="auto")
    positions = await asyncio.to_thread(record, raw, layer, *numbered(1, 3))
    history = await asyncio.to_thread(lambda: asyncio.run(layer.group_history("room", positions[0], 1)))
    assert numbers(history) == [2]
    history = await asyncio.to_thread(layer.sync.group_history, "room", since=positions[0], limit=1)
    assert numbers(history) == [2]
    assert history.position == positions[1]
    await asyncio.to_thread(layer.sync.group_forget, "room")
    assert not raw.exists(stream_of(layer).key)


# When it is not complete.


async def is_complete(layer: Any, since: str | None, group: str = "room") -> bool:
    history = await within(layer.group_history(group, since=since))
    return bool(history.complete)


@pytest.mark.parametrize("text", ["", "x", "0" * WIDTH, "1767225600123-7", "\u0661" * WIDTH])
async def test_what_is_no_position(make: Make, raw: Any, text: str) -> None:
    """The newest messages come all the same, and not complete."""
    layer = make(history=HISTORY)
    record(raw, layer, *numbered(1, 3))
    history = await within(layer.group_history("room", since=text))
    assert numbers(history) == [1, 2, 3]
    assert not history.complete


async def test_positions_that_nobody_issued(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    record(raw, layer, *numbered(1, 1))
    [text] = record(raw, layer, *numbered(2, 2))
    record(raw, layer, *numbered(3, 3))
    issued = Position.parse(text)
    assert issued is not None
    assert await is_complete(layer, text)
    for forged in (
        issued._replace(milliseconds=issued.milliseconds - 1),
        issued._replace(number=issued.number + 1000),
        issued._replace(milliseconds=0, number=0),
        issued._replace(milliseconds=9_999_999_999_999),
        issued._replace(epoch="0" * 8),
        issued._replace(epoch="f" * 8),
        issued._replace(group="f" * 8),
    ):
        assert not await is_complete(layer, str(forged)), forged
    newest = Position.parse((await within(layer.group_history("room"))).position)
    assert newest is not None
    for forged in (newest._replace(epoch="f" * 8), newest._replace(number=newest.number + 1000)):
        assert not await is_complete(layer, str(forged)), forged


async def test_a_position_of_another_group(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    [position] = record(raw, layer, *numbered(1, 1), group="room1")
    record(raw, layer, *numbered(1, 1), proposal=Position.parse(position).entry, group="room2")  # type: ignore[union-attr]
    assert await is_complete(layer, position, "room1")
    assert not await is_complete(layer, position, "room2")


async def test_a_position_of_the_other_layer(make_core: Make, make_pubsub: Make, raw: Any) -> None:
    core, pubsub = make_core(history=HISTORY), make_pubsub(history=HISTORY)
    [position] = record(raw, core, *numbered(1, 1))
    assert await is_complete(core, position)
    assert not await is_complete(pubsub, position)


async def test_trimmed_by_number(make: Make, raw: Any) -> None:
    """Redis trims in blocks: at least `size` are kept, and a bounded number more."""
    layer = make(history={"room": {"size": 50, "ttl": 60}})
    server = identity_of(raw)
    positions = record(raw, layer, *numbered(1, 500), server=server)
    kept = numbers(await within(layer.group_history("room")))
    assert 50 <= len(kept) < 500
    assert kept == list(range(501 - len(kept), 501))
    assert not await is_complete(layer, None)
    assert not await is_complete(layer, positions[0])
    assert not await is_complete(layer, positions[kept[0] - 3])
    # The one before the first, of which it is the predecessor.
    assert await is_complete(layer, positions[kept[0] - 2])
    assert await is_complete(layer, positions[kept[0] - 1])


async def test_trimmed_by_bytes(make: Make, raw: Any) -> None:
    layer = make(history={"room": {"size": 1000, "ttl": 60, "max_bytes": 100_000}})
    server = identity_of(raw)
    messages = [{"n": n, "filler": b"x" * 10_000} for n in range(1, 51)]
    positions = record(raw, layer, *messages, server=server)
    kept = numbers(await within(layer.group_history("room")))
    assert kept == list(range(51 - len(kept), 51))
    assert 8 <= len(kept) <= 9
    assert not await is_complete(layer, None)
    assert not await is_complete(layer, positions[0])
    assert await is_complete(layer, positions[-5])
    # Of one that is larger by itself nothing else is left.
    [large] = record(raw, layer, {"n": 51, "filler": b"x" * 200_000})
    history = await within(layer.group_history("room", since=positions[-1]))
    assert numbers(history) == [51]
    assert history.complete
    record(raw, layer, {"n": 52})
    assert numbers(await within(layer.group_history("room"))) == [52]
    assert await is_complete(layer, large)


async def test_bytes_are_bounded_after_a_foreign_entry(make: Make, raw: Any) -> None:
    """It tells nothing of the bytes before it: what was counted from another beginning goes first."""
    layer = make(history={"room": {"size": 1000, "ttl": 60, "max_bytes": 100_000}})
    stream, server = stream_of(layer), identity_of(raw)
    message = {"n": 1, "filler": b"x" * 10_000}
    for _ in range(3):
        record(raw, layer, *[message] * 30, server=server)
        raw.xadd(stream.key, {"what": "is this"})
    record(raw, layer, *[message] * 30, server=server)
    assert raw.xlen(stream.key) <= 12


async def test_counts_beyond_what_lua_writes_in_full(make: Make, raw: Any) -> None:
    """A stream that has seen more than 100 terabytes."""
    layer = make(history=HISTORY)
    stream, server = stream_of(layer), identity_of(raw)
    record(raw, layer, *numbered(1, 1))
    [(entry, fields)] = raw.xrange(stream.key)
    epoch, before, _, _ = fields[b"h"].split(b" ")
    raw.delete(stream.key)
    grown = b" ".join((epoch, before, b"123456789012345", b"123456789012000"))
    raw.xadd(stream.key, {b"h": grown, b"m": fields[b"m"]}, id=entry)
    positions = record(raw, layer, *numbered(2, 4), server=server)
    history = await within(layer.group_history("room", since=positions[0]))
    assert numbers(history) == [3, 4]
    assert history.complete
    assert numbers(await within(layer.group_history("room"))) == [1, 2, 3, 4]


@pytest.mark.parametrize("which", [0, 1, 2, 3])
async def test_an_entry_that_somebody_deleted(make: Make, raw: Any, which: int) -> None:
    layer = make(history=HISTORY)
    stream = stream_of(layer)
    start = await within(layer.group_history("room"))
    positions = record(raw, layer, *numbered(1, 5))
    raw.xdel(stream.key, entries(raw, stream)[which + 1][0])
    history = await within(layer.group_history("room", since=start.position))
    assert numbers(history) == [n for n in range(1, 6) if n != which + 1]
    assert not history.complete
    assert not await is_complete(layer, None)
    assert await is_complete(layer, positions[which])


async def test_all_entries_deleted(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    stream = stream_of(layer)
    positions = record(raw, layer, *numbered(1, 3))
    raw.xtrim(stream.key, maxlen=0, approximate=False)
    assert not await is_complete(layer, positions[1])
    assert not await is_complete(layer, positions[2])
    assert record(raw, layer, *numbered(4, 4))[0] > positions[-1]


@pytest.mark.parametrize("place", ["in front", "among", "newest"])
@pytest.mark.parametrize("fields", [{"what": "is this"}, {"h": "a b c d", "m": b"\xc1"}, {"m": "1", "h": ""}])
async def test_a_foreign_entry(make: Make, raw: Any, place: str, fields: dict[str, Any]) -> None:
    """It harms no other message, and what is read across it is not complete."""
    layer = make(history=HISTORY)
    stream = stream_of(layer)
    if place == "in front":
        raw.xadd(stream.key, fields, id="5-5")
    positions = record(raw, layer, *numbered(1, 2))
    if place == "among":
        raw.xadd(stream.key, fields)
    positions += record(raw, layer, *numbered(3, 4))
    if place == "newest":
        raw.xadd(stream.key, fields)
    history = await within(layer.group_history("room"))
    assert [message["n"] for message in history.messages if "n" in message] == [1, 2, 3, 4]
    assert not history.complete
    assert await is_complete(layer, positions[1]) is (place == "in front")
    # And it heals: what comes later is proven again.
    later = (await within(layer.group_history("room"))).position
    record(raw, layer, *numbered(5, 6))
    history = await within(layer.group_history("room", since=later))
    assert numbers(history) == [5, 6]
    assert history.complete


async def test_a_message_that_cannot_be_read(make: Make, raw: Any, caplog: pytest.LogCaptureFixture) -> None:
    layer = make(history=HISTORY)
    start = await within(layer.group_history("room"))
    positions = record(raw, layer, {"n": 1}, b"\xc1", {"n": 3}, b"no message", {"n": 5})
    history = await within(layer.group_history("room", since=start.position))
    assert [message["n"] for message in history.messages] == [1, 3, 5]
    assert not history.complete
    assert layer.stats()["undecodable"] == 2
    assert "Skipped an undecodable message in the history of group 'room'" in caplog.text
    assert await is_complete(layer, positions[3])


async def test_a_key_of_another_type(make: Make, raw: Any) -> None:
    """An error for this group, and for nobody else."""
    layer = make(history=HISTORY)
    raw.set(stream_of(layer, "room1").key, "value")
    broken, fine = await within(
        asyncio.gather(layer.group_history("room1"), layer.group_history("room2"), return_exceptions=True)
    )
    assert isinstance(broken, ResponseError)
    assert "WRONGTYPE" in str(broken)
    assert fine.complete
    await within(layer.group_forget("room1"))
    assert (await within(layer.group_history("room1"))).complete


# A stream that is another one.


@pytest.mark.parametrize("way", ["forget", "flush", "expiry"])
async def test_a_new_stream_of_the_same_key(make: Make, raw: Any, way: str) -> None:
    """Whenever it begins: also within the same millisecond."""
    layer, other = make(history=HISTORY), make(history=HISTORY)
    stream = stream_of(layer)
    for _ in range(20):
        positions = record(raw, layer, *numbered(1, 2))
        if way == "forget":
            await within(layer.group_forget("room"))
        elif way == "flush":
            await within(layer.flush())
        else:
            raw.delete(stream.key)
        again = record(raw, layer, *numbered(1, 2))
        assert not set(positions) & set(again)
        assert not await is_complete(layer, positions[0])
        assert not await is_complete(other, positions[1])
        assert await is_complete(layer, again[0])
        assert await is_complete(layer, None)
        raw.delete(stream.key)
        assert not await is_complete(layer, again[1])


async def test_idle_streams_expire(make: Make, raw: Any) -> None:
    """By recording and by reading they live on."""
    layer = make(history={"room": {"size": 10, "ttl": 500}})
    stream = stream_of(layer)
    record(raw, layer, *numbered(1, 1))
    assert 490 < raw.ttl(stream.key) <= 501
    raw.expire(stream.key, 10)
    await within(layer.group_history("room"))
    assert 490 < raw.ttl(stream.key) <= 501


# Servers.


@pytest.mark.parametrize("with_data", [True, False])
async def test_a_restart_ends_an_epoch(make: Make, own_server: OwnServer, with_data: bool) -> None:
    server = own_server(*(["--appendonly", "yes", "--appendfsync", "always"] if with_data else []))
    layer = make(hosts=[server.url], history=HISTORY)
    with redis.Redis.from_url(server.url) as raw:
        positions = record(raw, layer, *numbered(1, 3))
        assert await is_complete(layer, positions[0])
        server.kill()
        server.restart()
        for position in (None, *positions):
            history = await within(_retried(layer, position))
            assert history.complete is (position is None and not with_data)
            assert len(history.messages) == (
                0 if not with_data else 3 if position is None else 2 - positions.index(position)
            )
        # From now on it is proven again.
        now = await within(layer.group_history("room"))
        record(raw, layer, *numbered(4, 5))
        history = await within(layer.group_history("room", since=now.position))
        assert numbers(history) == [4, 5]
        assert history.complete
        assert not await is_complete(layer, positions[0])


async def _retried(layer: Any, since: str | None) -> Any:
    while True:
        try:
            return await layer.group_history("room", since=since)
        except ConnectionError:
            await asyncio.sleep(0.01)


async def test_a_sender_with_an_older_epoch(make: Make, raw: Any) -> None:
    """What a process recorded that had not noticed a failover is read, and not as complete."""
    layer = make(history=HISTORY)
    start = await within(layer.group_history("room"))
    stale = identity_of(raw)._replace(run_id=b"f" * 40)
    record(raw, layer, *numbered(1, 1))
    record(raw, layer, *numbered(2, 2), server=stale)
    last = record(raw, layer, *numbered(3, 4))
    history = await within(layer.group_history("room", since=start.position))
    assert numbers(history) == [1, 2, 3, 4]
    assert not history.complete
    assert await is_complete(layer, last[0])


async def test_a_sender_that_took_the_server_for_another_primary(make: Make, raw: Any) -> None:
    """It is told, and has recorded nothing."""
    layer = make(history=HISTORY)
    start = await within(layer.group_history("room"))
    with pytest.raises(ReadOnlyError, match="another primary"):
        record(raw, layer, *numbered(1, 1), server=identity_of(raw)._replace(replication_id=b"f" * 40))
    assert await within(layer.group_history("room", since=start.position)) == start


async def test_a_server_that_does_not_tell_its_run_id(make: Make, own_server: OwnServer) -> None:
    """As an ACL or a hosting forbids INFO: everything is read, and nothing is called complete."""
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.acl_setuser(
            "chat", enabled=True, passwords=["+s3cret"], keys=["*"], categories=["+@all"], commands=["-info"]
        )
        host = {"address": server.url, "username": "chat", "password": "s3cret"}
        layer = make(hosts=[host], history=HISTORY)
        start = await within(layer.group_history("room"))
        assert not start.complete
        assert start.position.endswith(NO_EPOCH)
        positions = record(raw, layer, *numbered(1, 3), server=UNKNOWN)
        for since in (None, start.position, *positions):
            history = await within(layer.group_history("room", since=since))
            assert not history.complete
        assert numbers(await within(layer.group_history("room", since=start.position))) == [1, 2, 3]


async def test_without_scripts(make: Make, own_server: OwnServer) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.acl_setuser("chat", enabled=True, passwords=["+s3cret"], keys=["*"], categories=["+@all", "-@scripting"])
    layer = make(hosts=[{"address": server.url, "username": "chat", "password": "s3cret"}], history=HISTORY)
    for _ in range(2):
        with pytest.raises(ResponseError, match=r"refuses EVAL, which the option 'history' needs") as raised:
            await within(layer.group_history("room"))
        assert "s3cret" not in str(raised.value)


async def test_a_server_that_is_full(make: Make, own_server: OwnServer) -> None:
    server = own_server("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    layer = make(hosts=[server.url], history=HISTORY)
    with redis.Redis.from_url(server.url) as raw:
        with pytest.raises(ResponseError, match="OOM"):
            await within(layer.group_history("room"))
        raw.config_set("maxmemory", "0")
        assert (await within(layer.group_history("room"))).complete


async def test_nobody_there(make: Make) -> None:
    layer = make(hosts=["redis://127.0.0.1:1"], history=HISTORY)
    for call in (layer.group_history("room"), layer.group_forget("room")):
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
            await within(call)


# Proposals.


async def test_a_proposal_is_taken_or_told_the_newest(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    stream = stream_of(layer)
    [first] = record(raw, layer, *numbered(1, 1), proposal="5000-7")
    assert first.startswith("0000000005000-0000000007-")
    for refused in ("5000-7", "5000-6", "4999-9"):
        assert record(raw, layer, *numbered(2, 2), proposal=refused) == [[b"5000-7"]]
    [second] = record(raw, layer, *numbered(2, 2), proposal="5000-8")
    history = await within(layer.group_history("room", since=first))
    assert history.messages == [{"type": "t", "n": 2, FIELD: second}]
    assert history.complete
    raw.xtrim(stream.key, maxlen=0, approximate=False)
    assert record(raw, layer, *numbered(3, 3), proposal="5000-8") == [[b"5000-8"]]
    assert record(raw, layer, *numbered(3, 3), proposal="6000-1")[0].startswith("0000000006000-0000000001-")


# Forgetting.


async def test_forget_removes_one_history(make: Make, raw: Any) -> None:
    layer = make(history=HISTORY)
    for group in ("room1", "room2"):
        record(raw, layer, *numbered(1, 2), group=group)
    await within(layer.group_forget("room1"))
    assert not raw.exists(stream_of(layer, "room1").key)
    assert numbers(await within(layer.group_history("room2"))) == [1, 2]
    # Of one that is not there too.
    await within(layer.group_forget("room1"))
    assert (await within(layer.group_history("room1"))).messages == []


async def test_a_flush_of_pubsub_leaves_those_of_core(make_core: Make, make_pubsub: Make, raw: Any) -> None:
    """Both have histories under one prefix; on the core layer a flush deletes everything there."""
    core, pubsub = make_core(history=HISTORY), make_pubsub(history=HISTORY)
    for layer in (core, pubsub):
        record(raw, layer, *numbered(1, 2))
        record(raw, layer, *numbered(1, 2), group="room{1}")
    await within(pubsub.flush())
    for layer in (core, pubsub):
        for group in ("room", "room{1}"):
            assert raw.exists(stream_of(layer, group).key) == (layer is core)
    record(raw, pubsub, *numbered(1, 2))
    await within(core.flush())
    assert not any(raw.exists(stream_of(layer).key) for layer in (core, pubsub))


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"since": b"x"}, TypeError, "since must be a position (str) or None, not bytes"),
        ({"since": 5}, TypeError, "since must be a position (str) or None, not int"),
        ({"limit": 0}, ValueError, "limit must be at least 1; it is 0"),
        ({"limit": -1}, ValueError, "limit must be at least 1; it is -1"),
        ({"limit": "5"}, TypeError, "limit must be a number of messages or None, not str"),
        ({"limit": True}, TypeError, "limit must be a number of messages or None, not bool"),
        ({"limit": 1.0}, TypeError, "limit must be a number of messages or None, not float"),
    ],
)
async def test_wrong_arguments(make: Make, arguments: Any, error: type[Exception], text: str) -> None:
    layer = make(history=HISTORY)
    with pytest.raises(error) as raised:
        await within(layer.group_history("room", **arguments))
    assert str(raised.value) == text


async def test_groups_without_a_history(make: Make, raw: Any) -> None:
    layer, without = make(history=HISTORY), make()
    for method in ("group_history", "group_forget"):
        with pytest.raises(RuntimeError, match="Group 'lobby' has no history: no pattern of the option 'history'"):
            await within(getattr(layer, method)("lobby"))
        with pytest.raises(RuntimeError, match="This layer has no option 'history', so no group has a history"):
            await within(getattr(without, method)("room"))
        with pytest.raises(TypeError):
            await within(getattr(layer, method)(5))
    assert not raw.exists(stream_of(layer).key)


# What is remembered, and counted.


async def test_streams_that_are_remembered_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channels_redis_fast.history.streams.MAX_STREAMS", 5)
    layer = make(history=HISTORY)
    for n in range(50):
        assert stream_of(layer, f"room{n}").key.endswith(group_key(layer, f"room{n}") + b"}")
        assert layer._histories.find(f"lobby{n}", b"key") is None
        assert len(layer._histories._streams) <= 5


async def test_reads_are_counted(make: Make, raw: Any) -> None:
    """What was read behind a position; a look at all that is there recovers nobody."""
    layer = make(history=HISTORY)
    positions = record(raw, layer, *numbered(1, 5))
    await within(layer.group_history("room"))
    assert (layer.stats()["recovered"], layer.stats()["incomplete"]) == (0, 0)
    await within(layer.group_history("room", since=positions[1]))
    assert (layer.stats()["recovered"], layer.stats()["incomplete"]) == (3, 0)
    await within(layer.group_history("room", since="malformed", limit=2))
    assert (layer.stats()["recovered"], layer.stats()["incomplete"]) == (5, 1)
