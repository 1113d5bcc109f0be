"""Hosts behind TLS: each way to say so, and who is not let in."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from bench.server import Server
from tests.core.helpers import until, within
from tests.hosts.exercise import exercise
from tests.places import Certificates

MakeLayer = Callable[..., Any]


def as_url(server: Server, options: dict[str, Any]) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"rediss://127.0.0.1:{server.port}?{query}"


def as_address(server: Server, options: dict[str, Any]) -> dict[str, Any]:
    return {"address": f"rediss://127.0.0.1:{server.port}", **options}


def as_keywords(server: Server, options: dict[str, Any]) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": server.port, "ssl": True, **options}


FORMS = {"url": as_url, "address": as_address, "keywords": as_keywords}


@pytest.fixture(params=list(FORMS))
def form(request: pytest.FixtureRequest) -> Callable[[Server, dict[str, Any]], Any]:
    """How a host is written."""
    return FORMS[request.param]


def checks(certificates: Certificates) -> dict[str, Any]:
    """The keywords of a careful site."""
    return {"ssl_cert_reqs": "required", "ssl_ca_certs": certificates.ca, "ssl_check_hostname": True}


async def refused(layer: Any, label: str) -> str:
    """See that every kind of call says which host refuses; return all that was said."""
    said = []
    calls = [
        lambda: layer.send("general", {}),
        lambda: layer.receive("general"),
        lambda: layer.group_send("room", {}),
    ]
    for call in calls:
        with pytest.raises(ConnectionError, match=label) as raised:
            await within(call(), 10)
        error: BaseException | None = raised.value
        while error is not None:
            said.append(str(error))
            error = error.__cause__ or error.__context__
    return "\n".join(said)


async def test_a_server_with_a_certificate_of_a_known_authority(
    make_layer: MakeLayer, tls_server: Server, certificates: Certificates, form: Callable[..., Any]
) -> None:
    host = form(tls_server, checks(certificates))
    await exercise(make_layer(host), make_layer(host))


async def test_an_unknown_authority_is_refused(
    make_layer: MakeLayer, tls_server: Server, certificates: Certificates, form: Callable[..., Any]
) -> None:
    host = form(tls_server, {**checks(certificates), "ssl_ca_certs": certificates.stranger})
    said = await refused(make_layer(host), f"127.0.0.1:{tls_server.port}")
    assert "certificate" in said.lower()


async def test_an_unknown_authority_that_nobody_asks_about(
    make_layer: MakeLayer, tls_server: Server, certificates: Certificates, form: Callable[..., Any]
) -> None:
    options = {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": certificates.stranger}
    layer = make_layer(form(tls_server, options))
    await within(layer.group_add("room", await layer.new_channel()))


async def test_a_certificate_without_checks_as_on_heroku(make_layer: MakeLayer, tls_server: Server) -> None:
    """What the page about hosting says for providers with self-signed certificates: one keyword beside the URI."""
    layer = make_layer({"address": f"rediss://127.0.0.1:{tls_server.port}", "ssl_cert_reqs": None})
    await within(layer.group_add("room", await layer.new_channel()))


async def test_the_name_in_the_certificate(
    make_layer: MakeLayer, tls_server: Server, certificates: Certificates
) -> None:
    """It is for 127.0.0.1, and `localhost` is not that."""
    url = f"rediss://localhost:{tls_server.port}"
    said = await refused(make_layer({"address": url, **checks(certificates)}), f"localhost:{tls_server.port}")
    assert "certificate" in said.lower()
    layer = make_layer({"address": url, **checks(certificates), "ssl_check_hostname": False})
    await within(layer.group_add("room", await layer.new_channel()))


async def test_a_server_that_demands_certificates(
    make_layer: MakeLayer, strict_tls_server: Server, certificates: Certificates, form: Callable[..., Any]
) -> None:
    with_own = {"ssl_certfile": certificates.client_certificate, "ssl_keyfile": certificates.client_key}
    host = form(strict_tls_server, {**checks(certificates), **with_own})
    await exercise(make_layer(host), make_layer(host))


async def test_no_certificate_for_a_server_that_demands_one(
    make_layer: MakeLayer, strict_tls_server: Server, certificates: Certificates, form: Callable[..., Any]
) -> None:
    host = form(strict_tls_server, checks(certificates))
    await refused(make_layer(host), f"127.0.0.1:{strict_tls_server.port}")


@pytest.fixture
def impolite_server(certificates: Certificates) -> Iterator[tuple[int, list[str]]]:
    """A TLS server that refuses the password and never says goodbye; what became of its connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    ends: list[str] = []

    def serve(taken: socket.socket) -> None:
        with context.wrap_socket(taken, server_side=True) as spoken:
            spoken.recv(1000)
            spoken.sendall(b"-WRONGPASS invalid username-password pair\r\n" * 3)
            # Beneath TLS, where a goodbye is only bytes.
            raw = socket.socket(fileno=spoken.detach())
        with raw:
            raw.settimeout(5)
            try:
                while raw.recv(1000):
                    pass
                ends.append("ended")
            except ConnectionResetError:
                ends.append("ended")
            except TimeoutError:
                ends.append("left open")

    def accept() -> None:
        while True:
            try:
                taken, _ = listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(taken,))
            threads.append(thread)
            thread.start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        yield listening.getsockname()[1], ends
        # Closing alone does not wake accept().
        listening.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()


async def test_a_socket_is_gone_though_the_server_says_no_goodbye(
    make_layer: MakeLayer, impolite_server: tuple[int, list[str]], certificates: Certificates
) -> None:
    """Closing a TLS connection waits half a minute for that; a layer that tries again and again would pile them up."""
    port, ends = impolite_server
    options = {**checks(certificates), "password": "wrong", "socket_connect_timeout": 0.5}
    layer = make_layer({"address": f"rediss://127.0.0.1:{port}", **options})
    with pytest.raises(ConnectionError, match=str(port)):
        await within(layer.send("general", {}), 10)
    await until(lambda: bool(ends))
    assert "left open" not in ends


async def test_no_tls_for_a_server_that_speaks_nothing_else(make_layer: MakeLayer, tls_server: Server) -> None:
    await refused(make_layer(("127.0.0.1", tls_server.port)), f"127.0.0.1:{tls_server.port}")


async def test_tls_for_a_server_that_does_not_speak_it(
    make_layer: MakeLayer, plain_server: Server, certificates: Certificates
) -> None:
    """The server waits for the end of a command that is none: only time tells."""
    host = as_address(plain_server, {**checks(certificates), "socket_connect_timeout": 0.2})
    await refused(make_layer(host), f"127.0.0.1:{plain_server.port}")
