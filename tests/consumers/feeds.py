"""What the tests of resumable consumers share: options of a layer with histories, and a client that comes back."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

from tests.consumers.ways import Socket
from tests.core.helpers import within

#: Groups whose names begin like this have a history.
HISTORY = {"room.*": {"size": 1000, "ttl": 60}}


async def say(layer: Any, group: str, *numbers: int) -> None:
    for number in numbers:
        await layer.group_send(group, {"type": "room.said", "number": number})


class Browser:
    """
    A client as docs/resuming.md has it: it keeps the newest position of each group, and brings them along.

    `said` has what it was told, each with the group if the frame names it.
    """

    def __init__(self, consumer_class: Any) -> None:
        self._consumer_class = consumer_class
        self.positions: dict[str, str] = {}
        self.said: list[Any] = []

    async def visit(self, query: str | None = None) -> Browser:
        """Connect; a query of its own stands for the positions that it has."""
        if query is None:
            query = urlencode([("since", position) for position in self.positions.values()])
        self.socket = Socket(self._consumer_class.as_asgi(), query_string=query.encode())
        await self.socket.accepted()
        return self

    async def resumed(self, groups: int = 1) -> list[dict[str, Any]]:
        """Take in frames until so many groups are resumed; returns what was said of groups."""
        notices: list[dict[str, Any]] = []
        while sum(notice["type"] == "resumed" for notice in notices) < groups:
            frame = await self.hear()
            if "type" in frame:
                notices.append(frame)
        return notices

    async def hear(self) -> Any:
        """Take in one frame."""
        frame = json.loads(await self.socket.text())
        if "position" in frame:
            self.positions[frame["position"][25:33]] = frame["position"]
        if "said" in frame:
            self.said.append(frame["said"])
        return frame

    async def hears_nothing_more(self) -> None:
        """Prove that nothing was sent that it has not taken in: the answer to what it says now comes next."""
        self.socket.say(json.dumps({"ping": 1}))
        assert json.loads(await self.socket.text()) == {"pong": 1}

    async def leave(self) -> None:
        self.socket.leave()
        await self.socket.end()

    async def vanish(self) -> None:
        """Go away without a word: the server cancels the consumer."""
        self.socket.task.cancel()
        await within(asyncio.wait([self.socket.task]))
