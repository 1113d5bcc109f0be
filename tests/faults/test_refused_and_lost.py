"""A wait that is refused, and whose connection is lost before it is known which key that was about."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from redis.exceptions import NoPermissionError

from tests.core.helpers import until, within
from tests.fakeserver import FakeServer, fake_server

Make = Callable[..., Any]

NOPERM = b"-NOPERM this user has no permissions to access one of the keys used as arguments\r\n"


class Forgetful:
    """Refuses the first wait and hangs up when it is asked about the keys; after that it has a message on each."""

    def __init__(self) -> None:
        self._body = bytes(12) + msgpack.packb({"n": 1})
        self.server: FakeServer | None = None
        self.waits = 0
        self.asked = 0

    def __call__(self, command: list[bytes]) -> bytes:
        name = command[0]
        if name == b"BZPOPMIN":
            self.waits += 1
            if self.waits == 1:
                return NOPERM
            key = next((key for key in command[1:-1] if b":wake:" not in key), b"")
            return b"*3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n$1\r\n1\r\n" % (len(key), key, len(self._body), self._body)
        if name == b"ZPOPMIN":
            self.asked += 1
            if self.asked == 1:
                assert self.server is not None
                self.server.hang_up()
            return b"*0\r\n" * (self.asked > 1)
        return b"*0\r\n" if name == b"ZRANGE" else b":1\r\n"


@pytest.mark.parametrize("kind", ["specific", "general"])
async def test_the_pump_asks_again(make_core: Make, kind: str) -> None:
    answers = Forgetful()
    async with fake_server(answers) as fake:
        answers.server = fake
        layer = make_core(hosts=[fake.url])
        channel = await layer.new_channel() if kind == "specific" else "general"
        with contextlib.suppress(NoPermissionError):
            # Unless the next wait is faster, which brings a message.
            await within(layer.receive(channel))
        await until(lambda: answers.asked == 2)
        assert await within(layer.receive("general")) == {"n": 1}
