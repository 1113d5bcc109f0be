"""The consumers of the benchmarks, by who brings a message from the layer to them.

A contender's name ends with its dispatch: `fast` is our layer under Channels' own consumers, `fast-direct` the same
layer under `channels_redis_fast.consumers`, `fast-resumable` these with `Resumable` and a history of the room, and
`fast-loop` without any consumer: a hand-written loop over the sockets. Knows no layer and no server.
"""

from __future__ import annotations

import importlib
from typing import Any

DISPATCHES = ("direct", "loop", "resumable")
ROOM = "bench.room"
# What is broadcast is a frame already, as most broadcasts are: the handler is one line.
FRAME = "room.frame"


def split(layer: str) -> tuple[str, str]:
    """The layer's own name, and the dispatch above it: "channels" when the name says nothing else."""
    name, _, dispatch = layer.rpartition("-")
    return (name, dispatch) if dispatch in DISPATCHES else (layer, "channels")


def consumer_module(dispatch: str) -> str:
    return "channels.generic.websocket" if dispatch == "channels" else "channels_redis_fast.consumers"


def consumer_base(dispatch: str) -> Any:
    """The class `AsyncWebsocketConsumer` of Channels, or ours of the same name."""
    return importlib.import_module(consumer_module(dispatch)).AsyncWebsocketConsumer


def room_consumer(dispatch: str) -> Any:
    """What a site would write: join the room, pass on what the layer brings, answer the client, leave the room."""
    if dispatch == "resumable":
        return resumable_consumer()

    class RoomConsumer(consumer_base(dispatch)):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.channel_layer.group_add(ROOM, self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard(ROOM, self.channel_name)

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.send(text_data=text_data)

        async def room_frame(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

    return RoomConsumer


def resumable_consumer() -> Any:
    """The same room, whose clients get what they missed."""
    from channels_redis_fast import consumers

    class ResumableRoomConsumer(consumers.Resumable, consumers.AsyncWebsocketConsumer):
        groups = (ROOM,)

        async def room_frame(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

    return ResumableRoomConsumer


def frame(number: int) -> dict[str, Any]:
    """A broadcast, with its number first in the text."""
    return {"type": FRAME, "text": f'{{"number": {number}, "text": "Hello, is it me you are looking for?"}}'}


def number_of(text: str | bytes) -> int:
    """The number in the text of a `frame`."""
    return int(text[11 : text.index("," if isinstance(text, str) else b",")])  # type: ignore[arg-type]
