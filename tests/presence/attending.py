"""Who listens to the presence of a group, and processes that have a part in it, to be killed."""

from __future__ import annotations

import asyncio
import json
import select
import subprocess
import sys
from typing import Any

from tests.conftest import ROOT
from tests.core.helpers import until

#: The option of most tests: a lease that runs out soon, and no grace.
PRESENCE: dict[str, Any] = {"lease": 0.6, "grace": 0}


class Listener:
    """A channel in a group, and the events that it receives: pairs of what happened and the user."""

    def __init__(self, layer: Any, group: str, channel: str) -> None:
        self.channel = channel
        self.group = group
        self.messages: list[dict[str, Any]] = []
        self._layer = layer
        self.task = asyncio.ensure_future(self._receive())

    async def _receive(self) -> None:
        while True:
            message = await self._layer.receive(self.channel)
            self.messages.append(message)

    @property
    def events(self) -> list[tuple[str, Any]]:
        return [(m["type"].partition(".")[2], m["user"]) for m in self.messages if m["type"].startswith("presence.")]

    async def heard(self, *events: tuple[str, Any]) -> None:
        """Return when exactly these events have come, in this order, and a message that was sent after them."""
        await until(lambda: len(self.events) >= len(events))
        marks = sum(message["type"] == "mark" for message in self.messages)
        await self._layer.group_send(self.group, {"type": "mark"})
        await until(lambda: sum(message["type"] == "mark" for message in self.messages) > marks)
        assert self.events == list(events)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def listen(layer: Any, group: str = "room") -> Listener:
    """A channel of a layer that listens to a group."""
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    return Listener(layer, group, channel)


async def joined(layer: Any, user: Any, group: str = "room", info: Any = None) -> str:
    """A new channel of a layer by which a user is present."""
    channel: str = await layer.new_channel()
    await layer.presence_join(group, channel, user, info)
    return channel


class Attender:
    """A process in which users are present in the group "room"; see `attender.py`."""

    def __init__(self, kind: str, url: str, prefix: str, *users: str, **option: Any) -> None:
        command = [sys.executable, "-m", "tests.presence.attender", kind, url, prefix, json.dumps(PRESENCE | option)]
        self.process = subprocess.Popen([*command, *users], stdout=subprocess.PIPE, cwd=ROOT)

    def is_there(self) -> None:
        """Return when all have joined."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 15)[0], "the process says nothing"
        assert self.process.stdout.readline() == b"joined\n"

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
