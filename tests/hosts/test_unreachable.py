"""Hosts that cannot be used as they are written: the error says why. And names, whatever the loop is busy with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from bench.server import Server
from tests.core.helpers import within
from tests.hosts.exercise import exercise
from tests.hosts.test_tls import refused
from tests.places import Certificates, SentinelSet

MakeLayer = Callable[..., Any]

#: What Redis 7.2 says to everybody who comes from another machine, but for the end of it.
DENIED = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the "
    b"default user. In this mode connections are only accepted from the loopback interface. If you want to connect "
    b"from external computers to Redis you may adopt one of the following solutions: 1) Just disable protected mode\r\n"
)


@pytest.fixture
def silent_tls_port(certificates: Certificates) -> Iterator[int]:
    """A server that answers TLS and is silent to everything else, as some providers' are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)

    def serve(taken: socket.socket) -> None:
        with taken, contextlib.suppress(OSError):
            taken.settimeout(30)
            if taken.recv(1, socket.MSG_PEEK) == b"\x16":
                context.wrap_socket(taken, server_side=True).close()
            while taken.recv(1000):
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True))
                threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads.append(threading.Thread(target=accept, daemon=True))
        threads[0].start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(30)


@pytest.mark.parametrize("password", ["", ":s3cret@"])
async def test_a_server_that_answers_nothing_but_tls(
    make_layer: MakeLayer, silent_tls_port: int, password: str
) -> None:
    url = f"redis://{password}127.0.0.1:{silent_tls_port}?socket_connect_timeout=0.3"
    said = await refused(make_layer(url), f"127.0.0.1:{silent_tls_port}")
    assert said.count("the server speaks TLS on this port: write the host with rediss://") == 3
    assert "s3cret" not in said


@pytest.mark.parametrize("password", ["", ":s3cret@"])
async def test_no_tls_for_a_server_that_speaks_nothing_else(
    make_layer: MakeLayer, tls_server: Server, strict_tls_server: Server, password: str
) -> None:
    for server in (tls_server, strict_tls_server):
        said = await refused(make_layer(f"redis://{password}127.0.0.1:{server.port}"), f"127.0.0.1:{server.port}")
        assert said.count("the server speaks TLS on this port: write the host with rediss://") == 3
        assert "s3cret" not in said


async def test_tls_for_a_server_that_does_not_speak_it(make_layer: MakeLayer, plain_server: Server) -> None:
    host = {"address": f"rediss://:s3cret@127.0.0.1:{plain_server.port}", "socket_connect_timeout": 0.2}
    said = await refused(make_layer(host), f"127.0.0.1:{plain_server.port}")
    assert said.count("the server does not speak TLS on this port") == 3
    assert "s3cret" not in said


@contextlib.asynccontextmanager
async def protected() -> AsyncIterator[int]:
    """A server that is in protected mode. A real one would let us in, who come from its own machine."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(DENIED)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("password", ["", ":s3cret@"])
async def test_protected_mode(make_layer: MakeLayer, password: str) -> None:
    async with protected() as port:
        said = await refused(make_layer(f"redis://{password}127.0.0.1:{port}"), f"127.0.0.1:{port}")
    assert said.count("the server is in protected mode: it has no password") == 3
    assert "s3cret" not in said


@pytest.fixture
def busy_executor() -> Iterator[Callable[[], None]]:
    """Makes all threads of the running loop's default executor busy."""
    free = threading.Event()

    def occupy() -> None:
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1)
        loop.set_default_executor(executor)
        loop.run_in_executor(None, free.wait)

    yield occupy
    free.set()


async def test_a_name_while_the_default_executor_is_busy(
    make_layer: MakeLayer, plain_server: Server, busy_executor: Callable[[], None]
) -> None:
    busy_executor()
    host = {"host": "localhost", "port": plain_server.port, "socket_connect_timeout": 2}
    await exercise(make_layer(host), make_layer(host))


async def test_a_name_behind_tls_while_the_default_executor_is_busy(
    make_layer: MakeLayer, tls_server: Server, certificates: Certificates, busy_executor: Callable[[], None]
) -> None:
    """The certificate is for 127.0.0.1, and it is the name that is looked for in it."""
    busy_executor()
    host = {
        "address": f"rediss://localhost:{tls_server.port}",
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": certificates.ca,
        "socket_connect_timeout": 2,
    }
    with pytest.raises(ConnectionError, match=r"(?i)certificate"):
        await within(make_layer({**host, "ssl_check_hostname": True}).send("general", {}))
    await within(make_layer({**host, "ssl_check_hostname": False}).send("general", {}))


async def test_sentinels_by_name_while_the_default_executor_is_busy(
    make_layer: MakeLayer, sentinels: SentinelSet, busy_executor: Callable[[], None]
) -> None:
    busy_executor()
    host = sentinels.host
    named = {**host, "sentinels": [("localhost", port) for _, port in host["sentinels"]], "socket_connect_timeout": 2}
    await within(make_layer(named).send("general", {}))


async def test_each_address_of_a_name_is_tried(
    make_layer: MakeLayer, plain_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def two(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "two.test":
            return look_up(host, port, *arguments, **options)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.2", port)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    layer = make_layer({"host": "two.test", "port": plain_server.port})
    await within(layer.send("general", {}))


async def test_a_name_that_is_not_known(make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConnectionError, match=r"nobody\.test:6379.*not known"):
        await within(make_layer("redis://:s3cret@nobody.test:6379").send("general", {}))
