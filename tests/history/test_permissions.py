"""The rights that docs/deploying.md lists are what histories need, on both layers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from bench.server import Server
from tests.conftest import ROOT
from tests.core.helpers import within
from tests.history.recording import numbers

Make = Callable[..., Any]
OwnServer = Callable[..., Server]


def documented() -> list[str]:
    """The rules of a user of the core layer, of one of Pub/Sub, and what histories add, as they are documented."""
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    section = text.partition("## Users and rights")[2].partition("\n## ")[0]
    return re.findall(r"ACL SETUSER chat (.+)", section)


@pytest.mark.parametrize("options", [{}, {"symmetric_encryption_keys": ["secret"]}], ids=["plain", "encrypted"])
@pytest.mark.parametrize("kind", ["core", "pubsub"])
async def test_they_are_enough(
    make_core: Make, make_pubsub: Make, own_server: OwnServer, kind: str, options: dict[str, Any]
) -> None:
    core, pubsub, histories = documented()
    server, rules = own_server(), (core if kind == "core" else pubsub).replace("PASSWORD", "s3cret")
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chat", *rules.split(), *histories.split())
    make = make_core if kind == "core" else make_pubsub
    host = {"address": server.url, "username": "chat", "password": "s3cret"}
    layer = make(hosts=[host], prefix="asgi", history={"*": {"size": 50, "ttl": 60, "max_bytes": 2000}}, **options)
    channel = await within(layer.new_channel())
    await within(layer.group_add("room", channel))
    start = await within(layer.group_history("room"))
    assert start.complete
    # So many that the oldest have to go.
    for n in range(40):
        await within(layer.group_send("room", {"n": n}))
        assert (await within(layer.receive(channel)))["n"] == n
    history = await within(layer.group_resume("room", channel, start.position))
    assert numbers(history)[-1] == 39
    assert not history.complete
    await within(layer.group_send("room", {"n": 40}))
    history = await within(layer.group_history("room", since=history.position))
    assert numbers(history) == [40]
    assert history.complete
    await within(layer.group_forget("room"))
    await within(layer.flush())


@pytest.mark.parametrize("command", ["xadd", "xrevrange", "expire"])
async def test_one_that_is_missing_is_told(make: Make, own_server: OwnServer, command: str) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url) as raw:
        raw.execute_command("ACL", "SETUSER", "chat", "on", ">s3cret", "~*", "&*", "+@all", f"-{command}")
    host = {"address": server.url, "username": "chat", "password": "s3cret"}
    layer = make(hosts=[host], history={"*": {"size": 50, "ttl": 60}})
    with pytest.raises(ResponseError, match=r"(?i)permission|can't run this command"):
        await within(layer.group_history("room"))
    with pytest.raises(ResponseError, match=r"(?i)permission|can't run this command"):
        # The time of idleness begins anew once a second.
        await within(send_on(layer))


async def send_on(layer: Any) -> None:
    while True:
        await layer.group_send("room", {"n": 1})
        await asyncio.sleep(0.01)
