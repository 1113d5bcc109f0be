"""Unix sockets, and databases in every place where a number can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError

from bench.server import Server
from tests.core.helpers import named, until, within
from tests.hosts.exercise import exercise

MakeLayer = Callable[..., Any]

#: Each way to write a host, with and without a database.
FORMS: dict[str, Callable[[Server], Any]] = {
    "unix url": lambda server: server.unix_url,
    "unix address": lambda server: {"address": server.unix_url},
    "path": lambda server: {"path": str(server.unix_socket)},
    "url": lambda server: server.url,
    "pair": lambda server: ("127.0.0.1", server.port),
    "list": lambda server: ["127.0.0.1", str(server.port)],
    "keywords": lambda server: {"host": "127.0.0.1", "port": server.port},
}
WITH_DATABASE: dict[str, Callable[[Server], Any]] = {
    "unix url query": lambda server: f"{server.unix_url}?db=7",
    "unix address keyword": lambda server: {"address": server.unix_url, "db": 7},
    "path keyword": lambda server: {"path": str(server.unix_socket), "db": 7},
    "url path": lambda server: f"{server.url}/7",
    "url query": lambda server: f"{server.url}?db=7",
    "address keyword": lambda server: {"address": server.url, "db": 7},
    "keyword": lambda server: {"host": "127.0.0.1", "port": server.port, "db": 7},
}


@pytest.mark.parametrize("form", FORMS)
async def test_every_form(make_layer: MakeLayer, plain_server: Server, form: str) -> None:
    host = FORMS[form](plain_server)
    await exercise(make_layer(host), make_layer(host))


@pytest.mark.parametrize("form", WITH_DATABASE)
async def test_every_form_with_a_database(make_layer: MakeLayer, plain_server: Server, form: str) -> None:
    """The connections say which database they have selected, and the keys are there."""
    name = f"db-{form.replace(' ', '-')}"
    host = WITH_DATABASE[form](plain_server)
    host = named(host, name) if isinstance(host, str) else {**host, "client_name": name}
    layer = make_layer(host)
    await exercise(layer, make_layer(host))
    channel = await layer.new_channel()
    await layer.send(channel, {})
    assert await within(layer.receive(channel)) == {}
    with redis.Redis.from_url(plain_server.url) as raw:
        databases = {client["db"] for client in raw.client_list() if client["name"] == name}
        assert databases == {"7"}


@pytest.mark.parametrize("host", ["unix://{path}", {"path": "{path}"}], ids=["url", "path"])
async def test_a_socket_that_is_not_there(make_layer: MakeLayer, tmp_path: Any, host: Any) -> None:
    path = str(tmp_path / "none.sock")
    host = host.format(path=path) if isinstance(host, str) else {"path": path}
    for call in ("send", "group_send"):
        with pytest.raises(ConnectionError, match=path):
            await within(getattr(make_layer(host), call)("general", {}), 8)


async def test_a_server_that_comes_back_on_its_socket(
    make_layer: MakeLayer, own_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    layer, peer = make_layer(server.unix_url), make_layer(server.unix_url)
    await exercise(layer, peer)
    server.restart()
    await until(lambda: caplog.text.count(f"{server.unix_socket} lost") >= 2)
    await exercise(layer, peer)
