"""One visitor in one room."""

import time
from urllib.parse import parse_qs

from channels_redis_fast.consumers import AsyncJsonWebsocketConsumer, Present, Resumable


class Room(Present, Resumable, AsyncJsonWebsocketConsumer):
    """
    Passes on what is said, who types, and who is there.

    ``Resumable``: a browser that comes back gets what it has missed, in order, before anything newer. ``Present``: the
    others are told when somebody comes, and when the last window of somebody has gone.
    """

    async def connect(self):
        room = self.scope["url_route"]["kwargs"]["room"]
        self.name = parse_qs(self.scope["query_string"].decode()).get("name", ["?"])[0][:30]
        self.room = f"room.{room}"
        # No history: who typed a minute ago is of no interest to anybody.
        self.typing = f"typing.{room}"
        await self.enter(self.room)
        await self.channel_layer.group_add(self.typing, self.channel_name)
        await self.accept()
        await self.send_json({"type": "online", "names": list(await self.channel_layer.presence(self.room))})

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.typing, self.channel_name)

    async def receive_json(self, content):
        """Called with what the visitor's browser sends: the text of a message, or that one is being typed."""
        if content.get("type") == "say":
            said = {"id": str(content["id"])[:40], "name": self.name, "text": str(content["text"])[:2000]}
            await self.channel_layer.group_send(self.room, {"type": "room.said", **said, "at": time.time()})
        elif content.get("type") == "typing":
            typing = {"type": "room.typing", "name": self.name}
            await self.channel_layer.group_send(self.typing, typing, exclude=[self.channel_name])

    async def room_said(self, event):
        """Called with what somebody said, also with what was said while this visitor was away."""
        await self.send_json({"type": "said", **{field: event[field] for field in ("id", "name", "text", "at")}})

    def presence_user(self):
        """Return who is present: here a name, the user of ``scope["user"]`` where a site has users."""
        return self.name

    async def presence_join(self, event):
        """Called when somebody has come."""
        await self.send_json({"type": "came", "name": event["user"]})

    async def presence_leave(self, event):
        """Called when somebody has gone."""
        await self.send_json({"type": "went", "name": event["user"]})

    async def room_typing(self, event):
        """Called when somebody types."""
        await self.send_json({"type": "typing", "name": event["name"]})
