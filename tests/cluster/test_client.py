"""A redis-py client of the cluster for a site's own commands, and what a site may not override there."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import ConnectionPool, RedisCluster

from channels_redis_fast.core import RedisChannelLayer
from tests.cluster.conftest import Make
from tests.clusters import Cluster
from tests.core.helpers import until, within
from tests.hosts.exercise import LAYERS

NAME = "of-the-site"


async def test_a_client_reaches_every_server(cluster: Cluster, make: Make) -> None:
    layer = make("core", {**cluster.host, "client_name": NAME})
    client = layer.connection(0)
    assert isinstance(client, RedisCluster)
    assert layer.connection(0) is client
    keys = [f"{layer.prefix}:own:{number}" for number in range(30)]
    for key in keys:
        await within(client.set(key, key, ex=60))
    assert [await client.get(key) for key in keys] == [key.encode() for key in keys]
    assert {cluster.owner(key).port for key in keys} == {node.port for node in cluster.nodes}
    await layer.close_pools()
    await until(lambda: not any(node.clients(NAME) for node in cluster.nodes))
    # And a new one when it is asked for again.
    assert layer.connection(0) is not client
    assert await layer.connection(0).get(keys[0]) == keys[0].encode()


async def test_a_cluster_is_one_shard(cluster: Cluster, make: Make) -> None:
    with pytest.raises(ValueError, match="no shard 1"):
        make("core", cluster.host).connection(1)


async def test_what_one_uri_says_is_for_the_client_too(cluster: Cluster, make: Make) -> None:
    """The servers that the client finds are asked for with the user, and all else, of the first URI."""
    for node in cluster.nodes:
        node.raw.execute_command("ACL", "SETUSER", NAME, "reset", "on", ">s3cret", "~*", "&*", "+@all")
    try:
        url = cluster.urls[0].replace("//", f"//{NAME}:s3cret@")
        client = make("core", {"cluster": [cluster.addresses[1], url]}).connection(0)
        answers = await within(client.execute_command("ACL WHOAMI", target_nodes=RedisCluster.PRIMARIES))
        # Text or bytes, as redis-py has it.
        assert [name in (NAME, NAME.encode()) for name in answers.values()] == [True] * len(cluster.nodes)
    finally:
        for node in cluster.nodes:
            node.raw.execute_command("ACL", "DELUSER", NAME)


async def test_tls_of_a_uri_becomes_the_clients(make: Make) -> None:
    layer = make("core", {"cluster": ["rediss://h1:7000?ssl_ca_certs=ca.crt"]})
    keywords: dict[str, Any] = layer.connection(0).connection_kwargs
    assert keywords["ssl_ca_certs"] == "ca.crt"
    assert keywords["connection_class"].__name__ == "SSLConnection"


class Pooled(RedisChannelLayer):
    """A site that makes its own pools."""

    def create_pool(self, index: int) -> Any:
        return ConnectionPool()


def test_a_pool_of_the_sites_own_cannot_serve_a_cluster() -> None:
    with pytest.raises(ValueError, match=r"create_pool creates the pool of one host and cannot serve a cluster"):
        Pooled(hosts=[{"cluster": ["redis://:s3cret@h1:7000"]}])
    assert Pooled(hosts=["redis://h1:7000"]).ring_size == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_a_cluster_has_no_one_pool(kind: str) -> None:
    with pytest.raises(ValueError, match="cluster:h1:7000 is a cluster and has no single pool"):
        LAYERS[kind](hosts=[{"cluster": ["redis://:s3cret@h1:7000"]}]).create_pool(0)
