"""Shards of every kind in one list of hosts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import redis

from bench.server import Server, start_server
from tests.core.helpers import within
from tests.hosts.exercise import exercise
from tests.places import PASSWORDS, Certificates, SentinelSet

MakeLayer = Callable[..., Any]


@pytest.fixture
def hosts(
    plain_server: Server,
    own_server: Callable[..., Server],
    acl_server: Server,
    tls_server: Server,
    certificates: Certificates,
    sentinels: SentinelSet,
) -> list[Any]:
    """Servers, since Pub/Sub does not know databases."""
    return [
        plain_server.url,
        ("127.0.0.1", own_server().port),
        f"unix://chan:{PASSWORDS['chan']}@{acl_server.unix_socket}",
        {"address": f"rediss://127.0.0.1:{tls_server.port}", "ssl_ca_certs": certificates.ca},
        sentinels.host,
    ]


@pytest.fixture
def raw_shards(
    hosts: list[Any], plain_server: Server, acl_server: Server, tls_server: Server, sentinels: SentinelSet
) -> list[redis.Redis]:
    """A plain client of each, over the unix socket that all of them have."""
    own = redis.Redis(port=hosts[1][1])
    acl = redis.Redis(unix_socket_path=str(acl_server.unix_socket), username="chan", password=PASSWORDS["chan"])
    tls = redis.Redis(unix_socket_path=str(tls_server.unix_socket))
    return [redis.Redis.from_url(plain_server.url), own, acl, tls, sentinels.client(sentinels.primary)]


async def test_everything_works_over_all_of_them(make_layer: MakeLayer, hosts: list[Any]) -> None:
    await exercise(make_layer(*hosts), make_layer(*hosts))


async def test_every_shard_gets_its_share(
    make_layer: MakeLayer, hosts: list[Any], raw_shards: list[redis.Redis], kind: str, prefix: str
) -> None:
    """Looked at from outside, where the channels' keys and subscriptions are; and all of it arrives."""
    layer, peer = make_layer(*hosts), make_layer(*hosts)
    # So many, and so different, that no shard is left out.
    channels = [await layer.new_channel(f"{prefix}.{uuid.uuid4().hex[:8]}") for _ in range(150)]
    if kind == "core":
        # The keys of one process' specific channels are on one shard for each prefix of new_channel.
        for n, channel in enumerate(channels):
            await peer.send(channel, {"n": n})
        shares = [sum(1 for _ in raw.scan_iter(f"{prefix}*")) for raw in raw_shards]
    else:
        shares = [len(raw.pubsub_channels(f"{prefix}*")) for raw in raw_shards]
        for n, channel in enumerate(channels):
            await peer.send(channel, {"n": n})
    for raw in raw_shards:
        raw.close()
    assert sum(shares) == 150
    assert all(shares), f"a shard without anything: {shares}"
    for n, channel in enumerate(channels):
        assert await within(layer.receive(channel)) == {"n": n}


@pytest.mark.parametrize("dead", [0, 4], ids=["plain", "sentinel"])
async def test_one_that_is_away_leaves_the_others_alone(
    make_layer: MakeLayer, hosts: list[Any], kind: str, dead: int
) -> None:
    with start_server() as server:
        gone = server.port
    hosts[dead] = (
        ("127.0.0.1", gone) if dead == 0 else {"sentinels": [("127.0.0.1", gone)], "master_name": "no-such-set"}
    )
    layer = make_layer(*hosts)
    groups = [uuid.uuid4().hex for _ in range(150)]
    calls = asyncio.gather(*(layer.group_send(group, {}) for group in groups), return_exceptions=True)
    results = await within(calls, 8)
    said = [str(result) for result in results if isinstance(result, redis.exceptions.ConnectionError)]
    assert len(said) + results.count(None) == 150
    assert 0 < len(said) < 150
    assert all((f"127.0.0.1:{gone}" if dead == 0 else "no-such-set") in text for text in said)
