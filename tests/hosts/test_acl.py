"""Hosts that know their users: each way to say who one is, what a stranger hears, and what nobody may read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import redis
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider
from redis.exceptions import AuthenticationError, ConnectionError

from bench.server import Server
from tests.core.helpers import within
from tests.hosts.exercise import exercise
from tests.places import PASSWORDS

MakeLayer = Callable[..., Any]

CALLS: dict[str, Callable[[Any], Any]] = {
    "send": lambda layer: layer.send("general", {}),
    "receive": lambda layer: layer.receive("general"),
    "group_send": lambda layer: layer.group_send("room", {}),
}


def as_url(server: Server, user: str, password: str) -> str:
    return f"redis://{user}:{quote(password, safe='')}@127.0.0.1:{server.port}"


def as_query(server: Server, user: str, password: str) -> str:
    return f"redis://127.0.0.1:{server.port}?username={user}&password={quote(password, safe='')}"


def as_unix_url(server: Server, user: str, password: str) -> str:
    return f"unix://{user}:{quote(password, safe='')}@{server.unix_socket}"


def as_keywords(server: Server, user: str, password: str) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": server.port, "username": user, "password": password}


def as_address(server: Server, user: str, password: str) -> dict[str, Any]:
    return {"address": server.url, "username": user, "password": password}


def as_provider(server: Server, user: str, password: str) -> dict[str, Any]:
    provider = UsernamePasswordCredentialProvider(user, password)
    return {"host": "127.0.0.1", "port": server.port, "credential_provider": provider}


FORMS = {
    "url": as_url,
    "query": as_query,
    "unix url": as_unix_url,
    "keywords": as_keywords,
    "address": as_address,
    "provider": as_provider,
}


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> Callable[[Server, str, str], Any]:
    """How a host is written."""
    return FORMS[request.param]


def label(server: Server, form: Callable[..., Any]) -> str:
    return str(server.unix_socket) if form is as_unix_url else f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("user", ["chan", "odd"])
async def test_a_user_with_a_password(
    make_layer: MakeLayer, acl_server: Server, form: Callable[..., Any], user: str
) -> None:
    """That of `odd` has everything in it that means something in a URL."""
    host = form(acl_server, user, PASSWORDS[user])
    await exercise(make_layer(host), make_layer(host))


async def test_a_provider_is_asked_for_each_connection(make_layer: MakeLayer, acl_server: Server) -> None:
    """Passwords that change while the process lives are what providers are for."""

    class Provider(CredentialProvider):
        asked = 0

        def get_credentials(self) -> tuple[str, str]:
            self.asked += 1
            return "chan", PASSWORDS["chan"]

    provider = Provider()
    layer = make_layer({"host": "127.0.0.1", "port": acl_server.port, "credential_provider": provider})
    assert provider.asked == 0
    for n in range(1, 3):
        await within(layer.send(f"{layer.prefix}.general", {}))
        assert provider.asked >= n
        await layer.close_pools()


@pytest.mark.parametrize("user", ["chan", "nobody", "default"])
async def test_a_wrong_password_names_the_host_and_is_not_repeated(
    make_layer: MakeLayer, acl_server: Server, form: Callable[..., Any], user: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    layer = make_layer(form(acl_server, user, "wr0ng/@pass word"))
    assert "wr0ng" not in f"{layer} {layer!r}"
    for call in CALLS.values():
        with pytest.raises(AuthenticationError, match=label(acl_server, form)) as raised:
            await within(call(layer), 8)
        error: BaseException | None = raised.value
        while error is not None:
            assert "wr0ng" not in str(error)
            error = error.__cause__ or error.__context__
    assert "wr0ng" not in caplog.text


async def test_no_user_at_all(make_layer: MakeLayer, acl_server: Server) -> None:
    """The server takes the connection and refuses every command: what it says names what is missing."""
    layer = make_layer(acl_server.url)
    for call in CALLS.values():
        with pytest.raises(AuthenticationError, match="Authentication required"):
            await within(call(layer), 8)


@pytest.mark.parametrize("client_name", [None, "mine"])
async def test_a_user_that_may_not_name_its_connections(
    make_layer: MakeLayer, acl_server: Server, client_name: str | None
) -> None:
    """A name is for the eyes of an administrator; nothing depends on it."""
    host = as_keywords(acl_server, "nameless", PASSWORDS["nameless"])
    if client_name is not None:
        host["client_name"] = client_name
    await exercise(make_layer(host), make_layer(host))


async def test_keys_that_the_user_may_not_touch(
    make_layer: MakeLayer, acl_server: Server, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The wrong prefix for this user: every call says so, and the next layer is served as ever."""
    host = as_url(acl_server, "chan", PASSWORDS["chan"])
    layer = make_layer(host, prefix="elsewhere")
    calls = [lambda: layer.group_send("room", {}), lambda: layer.send("elsewhere.general", {})]
    if kind == "pubsub":
        calls.append(lambda: layer.receive("elsewhere.general"))
    for call in calls:
        with pytest.raises(redis.exceptions.NoPermissionError) as raised:
            await within(call(), 8)
        assert PASSWORDS["chan"] not in str(raised.value)
    good = make_layer(host)
    await within(good.group_add("room", await good.new_channel()))
    assert PASSWORDS["chan"] not in caplog.text


async def test_a_password_for_a_server_without_any(make_layer: MakeLayer, plain_server: Server) -> None:
    with pytest.raises((AuthenticationError, ConnectionError), match=f"127.0.0.1:{plain_server.port}") as raised:
        await within(make_layer(f"redis://chan:s3cret@127.0.0.1:{plain_server.port}").send("general", {}), 8)
    assert "s3cret" not in str(raised.value)


async def test_a_password_that_is_changed(make_layer: MakeLayer, own_server: Callable[..., Server]) -> None:
    """Nobody is thrown out by that; who comes later is refused, and let in again when the old one is back."""
    server = own_server("--requirepass", "s3cret")
    layer = make_layer(f"redis://:s3cret@127.0.0.1:{server.port}")
    await within(layer.send("general", {}))
    with redis.Redis(port=server.port, password="s3cret") as raw:
        raw.config_set("requirepass", "other")
        await within(layer.send("general", {}))
        await layer.close_pools()
        with pytest.raises(AuthenticationError, match=f"127.0.0.1:{server.port}"):
            await within(layer.send("general", {}), 8)
        raw.config_set("requirepass", "s3cret")
        await within(layer.send("general", {}))
