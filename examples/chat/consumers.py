"""One visitor in one room."""

import time
from urllib.parse import parse_qs

from channels_redis_fast.consumers import AsyncJsonWebsocketConsumer, Resumable


class Room(Resumable, AsyncJsonWebsocketConsumer):
    """
    Passes on what is said and who types.

    ``Resumable``: a browser that comes back gets what it has missed, in order, before anything newer.
    """

    async def connect(self):
        room = self.scope["url_route"]["kwargs"]["room"]
        self.name = parse_qs(self.scope["query_string"].decode()).get("name", ["?"])[0][:30]
        self.room = f"room.{room}"
        # No history: who typed a minute ago is of no interest to anybody.
        self.typing = f"typing.{room}"
        await self.join(self.room)
        await self.channel_layer.group_add(self.typing, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.typing, self.channel_name)

    async def receive_json(self, content):
        """Called with what the visitor's browser sends: the text of a message, or that one is being typed."""
        if content.get("type") == "say":
            said = {"id": str(content["id"])[:40], "name": self.name, "text": str(content["text"])[:2000]}
            await self.channel_layer.group_send(self.room, {"type": "room.said", **said, "at": time.time()})
        elif content.get("type") == "typing":
            await self.channel_layer.group_send(self.typing, {"type": "room.typing", "name": self.name})

    async def room_said(self, event):
        """Called with what somebody said, also with what was said while this visitor was away."""
        await self.send_json({"type": "said", **{field: event[field] for field in ("id", "name", "text", "at")}})

    async def room_typing(self, event):
        """Called when somebody types."""
        await self.send_json({"type": "typing", "name": event["name"]})
