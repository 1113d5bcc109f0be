"""A mixed fleet as the tests see it: processes of both packages, and in each of them one layer for the test.

`Process` is the other end of `peer.py`; a `Member` is a layer in one of them. Everything blocks, and nothing for longer
than `LIMIT`; what is to happen at the same time is asked of several members first, and the answers read afterwards.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from binascii import crc32
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import redis

import channels_redis_fast
from tests.interop.peer import dumps, loads

#: Seconds for anything that takes milliseconds: far below pytest's own limit.
LIMIT = 30.0

PEER = Path(__file__).with_name("peer.py")

Message = dict[str, Any]


class PeerError(Exception):
    """What a method raised in a process: `kind` is the name of the exception's class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Process:
    """A process of one package."""

    def __init__(self, name: str, python: str | Path, package: str, loop: str = "asyncio") -> None:
        self.name = name
        self.is_ours = package == "channels_redis_fast"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if self.is_ours:
            # The very package that is tested here, installed or not.
            environment["PYTHONPATH"] = str(Path(channels_redis_fast.__file__).parent.parent)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(python), str(PEER), package, loop],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)
        self._buffer = b""
        self._answered: dict[int, dict[str, Any]] = {}
        self._numbers = count(1)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def ask(self, do: str, **order: Any) -> Callable[[], Any]:
        """Give an order; what is returned waits for its answer."""
        number = next(self._numbers)
        try:
            self._orders.write(dumps({"id": number, "do": do, "seconds": LIMIT, **order}).encode() + b"\n")
            self._orders.flush()
        except OSError:
            raise AssertionError(self._obituary()) from None
        return lambda: self._answer(number, do)

    def tell(self, do: str, **order: Any) -> Any:
        """Give an order and wait for its answer."""
        return self.ask(do, **order)()

    def end(self) -> None:
        """See the process end, which it does when it has no orders any more."""
        self._orders.close()
        try:
            self._process.wait(LIMIT)
            obituary = ""
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            obituary = self._obituary()
        self._selector.close()
        self._answers.close()
        self._errors.close()
        assert not obituary, f"{self.name} had to be killed:\n{obituary}"

    def _answer(self, number: int, do: str) -> Any:
        # The process ends each order by itself, in time to say so.
        deadline = time.monotonic() + LIMIT + 5
        while number not in self._answered:
            left = deadline - time.monotonic()
            assert left > 0, f"{self.name} does not answer to {do}"
            if self._selector.select(left):
                data = os.read(self._answers.fileno(), 2**16)
                assert data, self._obituary()
                *lines, self._buffer = (self._buffer + data).split(b"\n")
                self._answered.update((answer["id"], answer) for answer in map(loads, lines))
        answer = self._answered.pop(number)
        if "error" in answer:
            raise PeerError(*answer["error"])
        return answer["result"]

    def _obituary(self) -> str:
        self._errors.seek(0)
        return f"{self.name} has ended:\n{self._errors.read().decode(errors='replace')[-3000:]}"


@dataclass(eq=False)
class Member:
    """A layer in one of the processes."""

    process: Process
    layer: str
    kind: str
    options: dict[str, Any]

    @property
    def is_ours(self) -> bool:
        return self.process.is_ours

    def __str__(self) -> str:
        return self.process.name

    def ask(self, do: str, **order: Any) -> Callable[[], Any]:
        return self.process.ask(do, layer=self.layer, **order)

    def call(self, name: str, *arguments: Any) -> Any:
        return self.ask("call", name=name, arguments=arguments)()

    def send(self, channel: str, message: Message) -> None:
        self.call("send", channel, message)

    def group_add(self, group: str, channel: str) -> None:
        self.call("group_add", group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        self.call("group_discard", group, channel)

    def group_send(self, group: str, message: Message) -> None:
        self.call("group_send", group, message)

    def flush(self) -> None:
        self.call("flush")

    def new_channels(self, number: int, *prefix: str) -> list[str]:
        asked = [self.ask("call", name="new_channel", arguments=prefix) for _ in range(number)]
        return [answer() for answer in asked]

    def listen(self, *channels: str) -> None:
        for answer in [self.ask("listen", channel=channel) for channel in channels]:
            answer()

    def heard(self, channel: str, count: int, patience: float = LIMIT - 5) -> list[Any]:
        heard: list[Any] = self.ask("heard", channel=channel, count=count, patience=patience)()
        return heard

    def collect(self, channel: str, count: int) -> list[Any]:
        collected: list[Any] = self.ask("collect", channel=channel, count=count)()
        return collected

    def post(
        self, to: str, messages: Sequence[Message], name: str = "send", width: int = 1
    ) -> Callable[[], dict[str, int]]:
        """Send messages, `width` at a time; what is returned waits for the end, and counts the errors."""
        return self.ask("post", name=name, to=to, messages=list(messages), width=width)

    def numbered(self, count: int) -> list[Message]:
        """Messages of which each says who sent it."""
        return [{"by": str(self), "number": number} for number in range(count)]

    def logged(self) -> list[str]:
        lines: list[str] = self.process.tell("logged")
        return lines

    def close(self) -> None:
        self.ask("close")()


@dataclass
class Fleet:
    """Two members of each package that share their hosts; and the servers, as they look from outside."""

    kind: str
    prefix: str
    client_name: str
    urls: list[str]
    raws: list[redis.Redis]
    ours: list[Member] = field(default_factory=list)
    theirs: list[Member] = field(default_factory=list)

    @property
    def members(self) -> list[Member]:
        return [*self.ours, *self.theirs]

    @property
    def directions(self) -> list[tuple[Member, Member]]:
        """From each package to each, between two processes; channels_redis to itself comes last."""
        return [
            (self.ours[0], self.ours[1]),
            (self.ours[0], self.theirs[0]),
            (self.theirs[0], self.ours[0]),
            (self.theirs[0], self.theirs[1]),
        ]

    def shard(self, name: str) -> int:
        """Where a name belongs, by channels_redis' published ring."""
        return int((crc32(name.encode()) & 0xFFF) / (4096 / float(len(self.urls))))

    def is_misfiled(self, channel: str) -> bool:
        """Whether channels_redis sends to this specific channel on another shard than the one it is received on."""
        return self.kind == "core" and self.shard(channel) != self.shard(key_name(channel))

    def wait_for_subscriptions(self, wanted: dict[str, int]) -> None:
        """Wait until Redis channels have so many subscribers: channels_redis' Pub/Sub layer does not."""

        def subscribed() -> bool:
            found = {name: sum(number for raw in self.raws for _, number in raw.pubsub_numsub(name)) for name in wanted}
            return found == wanted

        until(subscribed)

    def group_channel(self, group: str) -> str:
        """The Redis channel of a group on the Pub/Sub layer."""
        return f"{self.prefix}__group__{group}"

    def waiting(self) -> int:
        """How many connections of the fleet wait in a blocking pop."""
        return sum(
            client["name"] == self.client_name and "b" in client["flags"]
            for raw in self.raws
            for client in raw.client_list()
        )


def key_name(channel: str) -> str:
    """The part of a channel's name that its key is made of."""
    return channel[: channel.find("!") + 1 or None]


def until(condition: Callable[[], bool], seconds: float = LIMIT, interval: float = 0.005) -> None:
    """Return as soon as the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come about"
        time.sleep(interval)


#: Two of each package; of ours, one on each event loop.
PROCESSES = ("ours-1", "ours-2", "theirs-1", "theirs-2")


def start(upstream_python: Path) -> dict[str, Process]:
    ours, theirs = "channels_redis_fast", "channels_redis"
    started = (
        Process("ours-1", sys.executable, ours),
        Process("ours-2", sys.executable, ours, "uvloop"),
        Process("theirs-1", upstream_python, theirs),
        Process("theirs-2", upstream_python, theirs),
    )
    return {process.name: process for process in started}
