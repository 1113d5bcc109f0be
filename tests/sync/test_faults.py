"""The I/O thread's connection fails while 20 threads call: what was acknowledged is there, and calls go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis
from asgiref.sync import async_to_sync

from bench.server import Server
from tests.core.helpers import clients, named
from tests.sync.helpers import Link, in_threads, wait_until

Make = Callable[..., Any]

THREADS = 20

#: How often the connection is ended.
KILLS = 10


class Load:
    """Threads that send until they are told to stop, and know what was acknowledged."""

    def __init__(self, layer: Any, channel: str) -> None:
        self.acknowledged: list[list[int]] = [[] for _ in range(THREADS)]
        self.errors: list[Exception] = []
        self.stop = threading.Event()
        self._layer, self._channel = layer, channel

    def work(self, index: int) -> None:
        number = 0
        while not self.stop.is_set():
            message = {"from": index, "n": number}
            try:
                if index == 0:
                    async_to_sync(self._layer.send)(self._channel, message)
                else:
                    self._layer.sync.send(self._channel, message)
            except redis.ConnectionError as error:
                self.errors.append(error)
            else:
                self.acknowledged[index].append(number)
            number += 1

    def count(self) -> int:
        return sum(map(len, self.acknowledged))

    def grows(self, by: int = 2 * THREADS) -> None:
        before = self.count()
        wait_until(lambda: self.count() >= before + by)

    def check(self, heard: list[dict[str, int]]) -> None:
        """All that was acknowledged is there, once, and in each thread's order."""
        for index in range(THREADS):
            mine = [message["n"] for message in heard if message["from"] == index]
            assert mine == sorted(set(mine))
            assert set(self.acknowledged[index]) <= set(mine)


def under_load(load: Load, faults: Callable[[], None]) -> None:
    def work(index: int) -> None:
        if index < THREADS:
            return load.work(index)
        try:
            load.grows()
            faults()
            load.grows()
        finally:
            load.stop.set()

    assert in_threads(THREADS + 1, work) == [None] * (THREADS + 1)


@pytest.mark.usefixtures("soon_again")
def test_connections_are_killed(make: Make, place_of: Any, redis_server: Any, prefix: str) -> None:
    layer = make(hosts=[named(redis_server.url, prefix)])
    place = place_of(layer)
    load = Load(layer, place.channel)

    def kill() -> None:
        with redis.Redis.from_url(redis_server.url) as raw:
            for _ in range(KILLS):
                for client in clients(raw, prefix):
                    raw.client_kill_filter(_id=client["id"])
                load.grows()

    under_load(load, kill)
    assert layer.stats()["reconnects"] >= 2
    # What was written and not answered may have happened, and says so.
    assert len(load.errors) <= (KILLS + 1) * THREADS
    layer.sync.send(place.channel, {"from": -1, "n": 0})
    wait_until(lambda: place.messages()[-1]["from"] == -1)
    load.check(place.messages())


@pytest.mark.usefixtures("soon_again")
def test_the_link_is_cut_between_question_and_answer(make: Make, server: Server, link: Link, place_of: Any) -> None:
    layer = make(hosts=[link.url])
    place = place_of(layer, server.url)
    load = Load(layer, place.channel)

    def cut() -> None:
        for _ in range(KILLS):
            link.do(link.proxy.cut)
            load.grows()

    under_load(load, cut)
    layer.sync.send(place.channel, {"from": -1, "n": 0})
    wait_until(lambda: place.messages()[-1]["from"] == -1)
    load.check(place.messages())


def test_the_server_is_started_again(make: Make, server: Server) -> None:
    """It forgets all: that calls go on, and on how many connections, is what there is to see."""
    layer = make(hosts=[server.url])
    load = Load(layer, "target")

    def restart() -> None:
        for _ in range(2):
            server.restart()
            load.grows()

    under_load(load, restart)
    layer.sync.send("target", {"n": 1})
    assert layer.stats()["connections_open"] == 1
    assert layer.stats()["commands_in_flight"] == 0


@pytest.mark.parametrize("way", ["sync", "async_to_sync"])
def test_a_call_waits_for_a_server_that_comes_back(make: Make, server: Server, way: str) -> None:
    """What was not yet written when the connection died goes out on the next one, as on a loop's own."""
    layer = make(hosts=[server.url])
    send = layer.sync.send if way == "sync" else async_to_sync(layer.send)
    send("target", {"n": 1})
    server.kill()
    wait_until(lambda: not layer.stats()["connections_open"])
    waiting = threading.Thread(target=send, args=("target", {"n": 2}))
    waiting.start()
    server.restart()
    waiting.join(15)
    assert not waiting.is_alive()
    assert layer.stats()["reconnects"] == 1


def test_two_layers_one_of_which_is_cut_off(make: Make, server: Server, link: Link) -> None:
    """They share the thread and nothing else."""
    well, ill = make(hosts=[server.url]), make(hosts=[link.url])
    ill.sync.send("target", {"n": 0})
    link.do(link.proxy.stall)
    waiting = threading.Thread(target=ill.sync.send, args=("target", {"n": 1}))
    waiting.start()
    for n in range(20):
        well.sync.send("target", {"n": n})
        asyncio.run(well.send("target", {"n": n}))
    assert waiting.is_alive()
    link.do(link.proxy.go_on)
    waiting.join(15)
    assert not waiting.is_alive()
