"""What the documentation promises about messages: each sentence has a test, and the tests that no other file had.

The table maps the beginning of each sentence of three sections to the tests that prove it.
"""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
import redis
from channels.exceptions import ChannelFull

from bench.server import Server
from tests.conftest import ROOT
from tests.core.helpers import LIMIT, end, nothing_to_receive, receive_many, started, until, within
from tests.proxy import proxy_to
from tests.pubsub.helpers import ready, subscribers

Make = Callable[..., Any]
OwnServer = Callable[..., Server]

#: Pages in docs/, and the headings of their sections.
SECTIONS = (
    ("delivery.md", "The core layer"),
    ("delivery.md", "The Pub/Sub layer"),
    ("watching.md", "What it reports"),
)

PROOFS: dict[str, list[str]] = {
    # The core layer.
    "`send` returns when Redis has the message.": [
        "tests/faults/test_guarantees.py::test_what_send_returned_for_is_in_redis",
        "tests/core/test_connection.py::test_sends_during_kills_end_one_way_or_the_other",
    ],
    "If the connection dies after the command was written": [
        "tests/core/test_connection.py::test_a_send_without_an_answer_raises_since_it_may_have_happened",
        "tests/faults/test_guarantees.py::test_a_send_that_raised_is_not_sent_again",
    ],
    "What was not yet written goes out on the next connection.": [
        "tests/core/test_connection.py::test_what_is_sent_during_an_outage_goes_out_afterwards",
    ],
    "Messages of one sender on one channel arrive in the order": [
        "tests/both/test_api.py::test_sends_of_one_tick_keep_their_order",
        "tests/both/test_api.py::test_order_holds_while_receiving",
        "tests/faults/test_refusals.py::test_scripts_forgotten_between_batches_keep_the_order",
        "tests/faults/test_refusals.py::test_without_scripts_order_holds_under_load",
    ],
    "A receiver that is cancelled loses nothing": [
        "tests/both/test_api.py::test_a_cancelled_receive_takes_nothing_along",
        "tests/both/test_api.py::test_a_cancelled_receive_leaves_its_message_to_the_next_in_order",
    ],
    "On its way from Redis to a process, at most one message": [
        "tests/faults/test_client_kill.py",
        "tests/faults/test_restart.py",
        "tests/core/test_connection.py::test_killed_connections_under_load_deliver_nothing_twice",
    ],
    "On a cluster specific channels' messages stay in Redis": [
        "tests/cluster/test_core_faults.py::test_a_primary_is_killed",
        "tests/cluster/test_core_faults.py::test_the_jobs_of_a_general_channel",
    ],
    "What moves with a slot is neither lost nor doubled": [
        "tests/cluster/test_core_moves.py::test_a_thousand_slots_move",
        "tests/cluster/test_core_moves.py::test_slots_that_stay_between_two_servers",
    ],
    "Nothing is delivered twice for it.": [
        "tests/faults/test_client_kill.py",
        "tests/core/test_connection.py::test_killed_connections_under_load_deliver_nothing_twice",
    ],
    "`close_pools()` waits a second for a server": [
        "tests/faults/test_guarantees.py::test_a_layer_closes_although_its_server_does_not_answer",
    ],
    "Messages for specific channels (those with a `!`) wait in the process": [
        "tests/core/test_batches.py::test_a_mailbox_holds_no_more_than_the_capacity",
        "tests/core/test_api.py::test_what_nobody_fetches_from_its_mailbox_expires",
    ],
    "Beyond that the oldest is dropped and counted": [
        "tests/core/test_batches.py::test_a_mailbox_holds_no_more_than_the_capacity",
    ],
    "Redis and the process together can then hold twice the capacity.": [
        "tests/faults/test_guarantees.py::test_redis_and_the_process_hold_at_most_twice_the_capacity",
    ],
    "A stored message that cannot be decoded is logged": [
        "tests/faults/test_poison.py::test_on_the_core_layer",
    ],
    "What a replica refuses, or a server that loads its data": [
        "tests/hosts/test_sentinel.py::test_a_primary_that_was_made_a_replica",
        "tests/faults/test_refusals.py::test_a_server_that_loads",
    ],
    "A failover keeps what was replicated": [
        "tests/hosts/test_sentinel.py::test_the_death_of_the_primary",
        "tests/hosts/test_sentinel.py::test_what_waits_in_redis_survives_a_failover",
    ],
    "Channels' own workers (`runworker`) take jobs": [
        "tests/consumers/test_workers.py::test_core",
    ],
    # The Pub/Sub layer.
    "`new_channel`, `group_add` and the first `receive` on a channel return": [
        "tests/pubsub/test_subscriptions.py::test_a_new_channel_misses_nothing",
        "tests/pubsub/test_subscriptions.py::test_a_new_member_misses_nothing",
        "tests/pubsub/test_subscriptions.py::test_the_first_receive_misses_nothing_afterwards",
    ],
    "What is published while a subscribing connection is down is missed": [
        "tests/faults/test_guarantees.py::test_what_is_published_during_an_outage_is_missed",
    ],
    "The connection is opened again at once": [
        "tests/pubsub/test_outages.py::test_all_hear_of_it_and_receive_again",
        "tests/faults/test_guarantees.py::test_everything_is_subscribed_again_in_batches",
    ],
    "A connection that is open and deaf is found by PING.": [
        "tests/faults/test_guarantees.py::test_a_deaf_connection_is_found_by_ping",
    ],
    "After a cancelled receive a channel goes on listening": [
        "tests/pubsub/test_leaving.py::test_ten_seconds_by_default",
        "tests/pubsub/test_leaving.py::test_polling_loses_nothing",
    ],
    "Then the channel is dropped": [
        "tests/pubsub/test_leaving.py::test_everything_is_dropped",
        "tests/pubsub/test_leaving.py::test_stored_messages_go_with_the_channel",
    ],
    "`flush` forgets the groups and waiting messages": [
        "tests/pubsub/test_flush.py::test_groups_messages_and_sockets_go",
        "tests/pubsub/test_flush.py::test_who_waits_goes_on_waiting",
    ],
    # Observability.
    "Every connection has a name in `CLIENT LIST`": [
        "tests/faults/test_seen_from_outside.py::test_every_connection_says_what_it_is",
        "tests/faults/test_seen_from_outside.py::test_the_name_that_is_configured",
    ],
    "The logger `channels_redis_fast` says": [
        "tests/faults/test_seen_from_outside.py::test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends",
        "tests/faults/test_seen_from_outside.py::test_each_shard_has_its_own_outage",
        "tests/faults/test_poison.py::test_on_the_core_layer",
        "tests/faults/test_poison.py::test_on_the_pubsub_layer",
        "tests/pubsub/test_mailboxes.py::test_the_oldest_give_way",
    ],
    "Groups with channels over capacity are logged at INFO": [
        "tests/core/test_groups.py::test_full_members_are_skipped_counted_and_logged",
    ],
    "`layer.stats()`": [
        "tests/faults/test_seen_from_outside.py::test_all_counters_are_there_and_zero",
        "tests/faults/test_seen_from_outside.py::test_what_the_core_layer_counts",
        "tests/faults/test_seen_from_outside.py::test_what_the_pubsub_layer_counts",
        "tests/faults/test_seen_from_outside.py::test_reconnects_and_gauges",
        "tests/faults/test_seen_from_outside.py::test_bytes_are_those_that_the_server_counts",
    ],
    "OpenTelemetry gets spans": [
        "tests/observe/test_tracing.py::test_a_message_to_a_consumer",
        "tests/observe/test_tracing.py::test_across_two_processes",
        "tests/observe/test_contrib.py::test_every_metric_is_looked_at",
    ],
}


def sentences(text: str, heading: str) -> list[str]:
    """The sentences of a section, each on one line."""
    heading = f"\n## {heading}\n"
    begin = text.index(heading) + len(heading)
    section = text[begin : text.index("\n## ", begin)]
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n|\n- ", section):
        line = " ".join(paragraph.removeprefix("- ").split())
        found += [part for part in re.split(r"(?<=\.) (?=[A-Z`])", line) if part]
    return found


@pytest.fixture(scope="module")
def promised() -> list[str]:
    docs = ROOT / "docs"
    if not docs.exists():
        pytest.skip("needs the documentation, which this copy of the tests does not have")
    return [sentence for page, heading in SECTIONS for sentence in sentences((docs / page).read_text("utf-8"), heading)]


def test_each_sentence_has_a_test(promised: list[str]) -> None:
    assert len(promised) > 10
    for sentence in promised:
        known = [beginning for beginning in PROOFS if sentence.startswith(beginning)]
        assert len(known) == 1, f"{len(known)} entries in the table for: {sentence}"


def test_each_entry_is_a_sentence(promised: list[str]) -> None:
    for beginning in PROOFS:
        assert any(sentence.startswith(beginning) for sentence in promised), f"no sentence begins: {beginning}"


@pytest.mark.parametrize("proof", sorted({proof for proofs in PROOFS.values() for proof in proofs}))
def test_each_test_exists(proof: str) -> None:
    path, _, name = proof.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    tests = [function for function in functions if function.startswith("test_")]
    assert name in tests if name else tests


def test_a_sentence_is_found_where_it_is() -> None:
    text = "# T\n\nNo.\n\n## S\n\n- One. `two` of\n  it. Three x.y.z.\n- Four.\n\nFive.\n\n## N\n\nNo."
    assert sentences(text, "S") == ["One.", "`two` of it.", "Three x.y.z.", "Four.", "Five."]


# The core layer.


@pytest.fixture(params=["specific", "general"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def channel_of(layer: Any, kind: str) -> str:
    return str(await layer.new_channel()) if kind == "specific" else "general"


async def test_what_send_returned_for_is_in_redis(make_core: Make, raw: redis.Redis, prefix: str, kind: str) -> None:
    """In the step in which it returns, alone or among others; so do the copies of a group message."""
    layer, receiver = make_core(capacity=1000), make_core()
    channel = await channel_of(receiver, kind)
    key = prefix + layer.non_local_name(channel)
    for n in range(1, 21):
        await layer.send(channel, {"n": n})
        assert raw.zcard(key) == n
    present = await asyncio.gather(*(returned(layer, channel, lambda: int(raw.zcard(key))) for _ in range(100)))
    # All of a batch at least: none returns before the last of those that it travelled with is there.
    assert min(present) >= 21
    assert raw.zcard(key) == 120
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    assert raw.zcard(key) == 121


async def returned(layer: Any, channel: str, look: Callable[[], int]) -> int:
    await layer.send(channel, {})
    return look()


@pytest.mark.parametrize("arrived", [True, False], ids=["arrived", "did not arrive"])
async def test_a_send_that_raised_is_not_sent_again(
    make_core: Make, own_server: OwnServer, kind: str, arrived: bool
) -> None:
    """It reached Redis and its answer was cut off, or not even that: a new connection does not bring it (again)."""
    server = own_server()
    async with proxy_to(server.port) as proxy:
        layer = make_core(hosts=[proxy.url])
        channel = await channel_of(layer, kind)
        await within(layer.send("before", {}))
        with redis.Redis.from_url(server.url) as raw:
            key = layer.prefix + layer.non_local_name(channel)
            for n in range(1, 6):
                if arrived:
                    proxy.cut_after(0)
                    with pytest.raises(redis.exceptions.ConnectionError):
                        await within(layer.send(channel, {"n": n}))
                    # As if it were received: written again it would be there again, as the same member.
                    assert raw.zcard(key) == 1
                    raw.delete(key)
                else:
                    proxy.stall()
                    sending = await started(layer.send(channel, {"n": n}))
                    await until(lambda: layer.stats()["commands_in_flight"] == 1)
                    proxy.cut()
                    with pytest.raises(redis.exceptions.ConnectionError):
                        await within(sending)
                    proxy.go_on()
                await within(layer.send("after", {"n": n}))
                assert not raw.exists(key)
                assert raw.zcard(f"{layer.prefix}after") == n


async def test_redis_and_the_process_hold_at_most_twice_the_capacity(make_core: Make) -> None:
    """A consumer that is busy: its mailbox takes one load, the key another, then sends are refused. None is lost."""
    capacity = 10
    layer, sender = make_core(capacity=capacity), make_core(capacity=capacity)
    channel = await layer.new_channel()
    # It receives once, and is busy from then on.
    for n in range(capacity):
        await sender.send(channel, {"n": n})
    assert await within(layer.receive(channel)) == {"n": 0}
    sent = capacity
    deadline = asyncio.get_running_loop().time() + LIMIT
    while sent < 5 * capacity and asyncio.get_running_loop().time() < deadline:
        try:
            await within(sender.send(channel, {"n": sent}))
        except ChannelFull:
            # The rest of the first load may not have left Redis yet.
            if sent > capacity + 1 and layer.stats()["deliveries"] >= capacity:
                break
            await asyncio.sleep(0.005)
        else:
            sent += 1
    held = sent - 1
    assert capacity < held <= 2 * capacity
    with pytest.raises(ChannelFull):
        await within(sender.send(channel, {}))
    assert await receive_many(layer, channel, held) == [{"n": n} for n in range(1, sent)]
    assert layer.stats()["dropped"] == 0
    await nothing_to_receive(layer, channel)


async def test_a_layer_closes_although_its_server_does_not_answer(make_core: Make, own_server: OwnServer) -> None:
    """Its connections are dropped, and the next receive opens others."""
    server = own_server()
    async with proxy_to(server.port) as proxy:
        layer = make_core(hosts=[proxy.url])
        channel = await layer.new_channel()
        receiving = await started(layer.receive(channel))
        with redis.Redis.from_url(server.url) as raw:
            await until(lambda: any(client["cmd"] == "bzpopmin" for client in raw.client_list()))
        proxy.stall()
        await within(layer.close_pools())
        assert layer.stats()["connections_open"] == 0
        proxy.go_on()
        receiving.cancel()
        await nothing_to_receive(layer, channel)


# The Pub/Sub layer.


async def test_what_is_published_during_an_outage_is_missed(make_pubsub: Make, own_server: OwnServer) -> None:
    """On a channel and a group: gone, told of, and what comes afterwards arrives."""
    server = own_server()
    async with proxy_to(server.port) as proxy:
        layer = make_pubsub(hosts=[proxy.url], on_disconnect="down", on_reconnect="up")
        peer = make_pubsub(hosts=[server.url])
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        with redis.Redis.from_url(server.url) as raw:
            proxy.stall()
            proxy.cut()
            await until(lambda: subscribers(raw, channel) == 0)
            for n in range(5):
                await within(peer.send(channel, {"missed": n}))
                await within(peer.group_send("room", {"missed": n}))
            assert await within(layer.receive(channel)) == {"type": "down"}
            proxy.go_on()
            assert await within(layer.receive(channel)) == {"type": "up"}
        await within(peer.send(channel, {"n": 1}))
        await within(peer.group_send("room", {"n": 2}))
        assert await receive_many(layer, channel, 2) == [{"n": 1}, {"n": 2}]
        await nothing_to_receive(layer, channel)


async def test_everything_is_subscribed_again_in_batches(make_pubsub: Make, own_server: OwnServer) -> None:
    """Thousands of names come back with a handful of commands."""
    server = own_server()
    layer = make_pubsub(hosts=[server.url], on_reconnect="up")
    channels = await within(asyncio.gather(*(layer.new_channel() for _ in range(2500))))
    for n, channel in enumerate(channels[:300]):
        await layer.group_add(f"room{n}", channel)
    with redis.Redis.from_url(server.url) as raw:
        raw.config_resetstat()
        assert raw.client_kill_filter(_type="pubsub") == 1
        assert await within(layer.receive(channels[0])) == {"type": "up"}
        assert raw.info("commandstats")["cmdstat_subscribe"]["calls"] == 3
        assert len(raw.pubsub_channels()) == 2800
    await within(layer.group_send("room7", {"n": 1}))
    assert await receive_many(layer, channels[7], 2) == [{"type": "up"}, {"n": 1}]


async def test_a_deaf_connection_is_found_by_ping(make_pubsub: Make, own_server: OwnServer) -> None:
    """Open, and nothing comes: it is given up within the answer time and another is opened, sends or no sends."""
    server = own_server()
    async with proxy_to(server.port) as proxy:
        layer = make_pubsub(hosts=[{"address": proxy.url, "socket_timeout": 0.3}], on_disconnect="down")
        channel = await layer.new_channel()
        await end(await started(layer.receive(channel)))
        receiving = await started(layer.receive(channel))
        with redis.Redis.from_url(server.url) as raw:
            deaf = {client["addr"] for client in raw.client_list() if int(client["sub"])}
            proxy.stall()
            # Nobody closes anything: only the PING that is not answered can tell.
            assert await within(receiving) == {"type": "down"}
            proxy.go_on()
            await until(lambda: any(int(client["sub"]) and client["addr"] not in deaf for client in raw.client_list()))
        await ready(layer, channel)
        await within(layer.send(channel, {"n": 1}))
        assert await within(layer.receive(channel)) == {"n": 1}
