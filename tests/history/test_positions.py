"""Positions as text, and the keys of streams: fixed width, order, slots."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from channels_redis_fast.cluster.slots import slot_of
from channels_redis_fast.connection.identity import ServerIdentity, field_of, identify
from channels_redis_fast.history.positions import (
    NO_EPOCH,
    PLACEHOLDER,
    WIDTH,
    Position,
    digest_of,
    epoch_of,
    group_key_of,
    histories_prefix,
    history_key,
    position_text,
    turn_key,
)

#: As far as positions go: the year 2286, and what follows from ten digits.
ENTRIES = st.tuples(st.integers(0, 9_999_999_999_999), st.integers(0, 9_999_999_999))
DIGESTS = st.text("0123456789abcdef", min_size=8, max_size=8)
POSITIONS = st.builds(lambda entry, group, epoch: Position(*entry, group, epoch), ENTRIES, DIGESTS, DIGESTS)

#: Few characters, so that braces stand everywhere.
NAMES = st.one_of(st.binary(max_size=20), st.lists(st.sampled_from([b"{", b"}", b"a", b":", b"1"])).map(b"".join))

SERVER = ServerIdentity(b"a" * 40, b"b" * 40)


@given(POSITIONS)
def test_a_position_is_text_of_one_width(position: Position) -> None:
    text = str(position)
    assert len(text) == WIDTH == len(PLACEHOLDER)
    assert text.isascii()
    assert Position.parse(text) == position


def test_how_it_reads() -> None:
    text = position_text(b"1767225600123-7", "0123abcd", "deadbeef")
    assert text == "1767225600123-0000000007-0123abcddeadbeef"
    position = Position.parse(text)
    assert position is not None
    assert position.entry == "1767225600123-7"


@given(POSITIONS, POSITIONS)
def test_positions_sort_as_text_as_their_entries_do(one: Position, other: Position) -> None:
    if one[:2] != other[:2]:
        assert (str(one) < str(other)) == (one[:2] < other[:2])


@given(st.one_of(st.text(), st.text("0123456789abcdef-", min_size=40, max_size=42)))
@example("")
@example("1767225600123-0000000007-0123abcddeadbeef\n")
@example(" 1767225600123-0000000007-0123abcddeadbeef")
@example("1767225600123-0000000007-0123ABCDDEADBEEF")
@example("176722560012-00000000007-0123abcddeadbeef")
@example("\u0661767225600123-0000000007-0123abcddeadbeef")
@example("1767225600123-000000000\uff17-0123abcddeadbeef")
@example("1767225600123-0000000007-0123abcddeadbee\ud800")
def test_what_is_none_is_told_apart(text: str) -> None:
    found = Position.parse(text)
    assert found is None or str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        "1767225600123-0000000007-0123abcddeadbeef\n",
        "\u0661767225600123-0000000007-0123abcddeadbeef",
        "1767225600123-0000000007-0123ABCDDEADBEEF",
        "-767225600123-0000000007-0123abcddeadbeef",
    ],
)
def test_near_misses(text: str) -> None:
    assert Position.parse(text) is None


@pytest.mark.parametrize("entry", [b"", b"-", b"1", b"1-", b"-1", b"a-1"])
def test_an_id_that_is_none(entry: bytes) -> None:
    with pytest.raises(ValueError, match="not the ID of an entry"):
        position_text(entry, "0" * 8, "0" * 8)


def test_a_group_has_a_digest_of_its_own() -> None:
    digests = {digest_of(f"asgi:group:room{n}".encode()) for n in range(1000)}
    assert len(digests) == 1000
    assert all(len(digest) == 8 for digest in digests)


def test_an_epoch_is_one_life_of_one_server() -> None:
    epochs = {
        epoch_of(SERVER),
        epoch_of(SERVER._replace(run_id=b"c" * 40)),
        epoch_of(SERVER._replace(replication_id=b"c")),
    }
    assert len(epochs) == 3
    assert NO_EPOCH not in epochs
    assert epoch_of(SERVER._replace(clock=5.0)) == epoch_of(SERVER)
    assert epoch_of(ServerIdentity(b"", b"b" * 40)) == NO_EPOCH


# Keys.


@settings(max_examples=50, deadline=None)
@given(prefix=NAMES, group_key=NAMES)
@example(b"asgi", b"asgi:group:room")
@example(b"asgi", b"asgi:group:{room}x")
@example(b"asgi", b"asgi:group:}{room}x")
@example(b"asgi", b"asgi:group:{}room")
@example(b"{site}", b"{site}:group:room")
@example(b"{site}", b"elsewhere")
@example(b"a{b", b"a{b:group:room}")
@example(b"a}b{", b"a}b{:group:{}")
@example(b"{", b"{")
def test_a_history_is_in_the_slot_of_its_group(prefix: bytes, group_key: bytes) -> None:
    key = history_key(prefix, group_key)
    assert key.startswith(histories_prefix(prefix))
    # No key under a prefix with a hash tag is in another slot, and its layer's groups are in that one.
    is_tied = slot_of(prefix + b"1") == slot_of(prefix + b"2")
    assert slot_of(key) == slot_of(group_key) or is_tied
    of_its_own = prefix + b":group:" + group_key
    assert slot_of(history_key(prefix, of_its_own)) == slot_of(of_its_own) == slot_of(turn_key(prefix, of_its_own))
    # A turn is looked at with its history, and is none.
    assert slot_of(turn_key(prefix, group_key)) == slot_of(key)
    assert not turn_key(prefix, group_key).startswith(histories_prefix(prefix))


def test_how_keys_read() -> None:
    assert history_key(b"asgi", b"asgi:group:room") == b"asgi:history:{asgi:group:room}"
    assert history_key(b"asgi", b"asgi:group:{room}1") == b"asgi:history:asgi:group:{room}1"
    assert history_key(b"asgi", b"asgi__group__room") == b"asgi:history:{asgi__group__room}"


@settings(max_examples=50, deadline=None)
@given(prefix=NAMES, group_key=NAMES)
@example(b"asgi", b"asgi:group:room")
@example(b"asgi", b"{1}")
@example(b"{1}", b"{1}:group:{room}")
@example(b"a}b{", b"a}b{:group:{}")
def test_the_group_is_known_by_the_key(prefix: bytes, group_key: bytes) -> None:
    """As `inspect` names it: a key has one group, that of which it is the history."""
    found = group_key_of(prefix, history_key(prefix, group_key))
    assert found is not None
    assert history_key(prefix, found) == history_key(prefix, group_key)


@settings(max_examples=50, deadline=None)
@given(
    prefix=st.sampled_from([b"asgi", b"{site}", b"other"]), groups=st.lists(NAMES, min_size=2, max_size=8, unique=True)
)
def test_no_two_groups_share_a_key(prefix: bytes, groups: list[bytes]) -> None:
    keys = {history_key(prefix, prefix + b":group:" + group) for group in groups}
    assert len(keys) == len(groups)


@pytest.mark.parametrize("key", [b"", b"asgi", b"asgi:history:", b"asgi:history:room", b"asgi:group:room"])
def test_a_key_that_is_no_history(key: bytes) -> None:
    assert group_key_of(b"asgi", key) is None


# Servers.


def test_a_server_says_who_it_is() -> None:
    server = b"# Server\r\nredis_version:7.0.15\r\nrun_id:" + b"a" * 40 + b"\r\nxrun_id:no\r\n"
    replication = b"# Replication\r\nmaster_replid:" + b"b" * 40 + b"\r\nmaster_replid2:" + b"0" * 40 + b"\r\n"
    identity = identify(server, replication, [b"1767225600", b"250000"])
    assert identity[:2] == SERVER[:2]
    assert identity == identify(server.decode(), replication.decode(), ["1767225600", "250000"])._replace(
        clock=identity.clock, started=identity.started
    )
    assert abs(identity.microseconds() - 1_767_225_600_250_000) < 10_000_000


@pytest.mark.parametrize("reply", [None, b"", b"# Server\r\n", 5, b"run_id", Exception("NOPERM")])
def test_a_server_that_does_not_say(reply: object) -> None:
    identity = identify(reply, reply, None if isinstance(reply, bytes) else reply)
    assert identity == ServerIdentity()
    assert epoch_of(identity) == NO_EPOCH
    assert identity.microseconds() > 1_700_000_000_000_000
    assert field_of(reply, b"run_id") == b""
