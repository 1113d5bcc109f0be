"""``Resumable``: WebSocket consumers whose clients miss nothing across a reconnect."""

from __future__ import annotations

import json
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer

from .recovery import RecoveringConsumer
from .since import Since
from .sources import Message


class Resumable(RecoveringConsumer, AsyncWebsocketConsumer):  # type: ignore[misc]
    """
    Makes a WebSocket consumer's clients miss nothing: ``class Feed(Resumable, AsyncJsonWebsocketConsumer)``.

    A client that comes back with ``?since=POSITION``, once for each group, or with ``?since={"group": "POSITION"}``,
    gets what it missed in the groups in ``groups`` and in those that the consumer joins with ``join``. Missed messages
    go through the consumer's handlers. Each frame that a handler of a group message sends carries the message's
    position.

    Needs a layer with the option ``history`` for these groups; otherwise an error says so when a client connects.
    """

    groups: Any

    #: The key of a frame's position. A value that the frame already has under it is replaced.
    position_key = "position"

    async def websocket_connect(self, message: Message) -> None:
        """Called when a client connects: join the groups in ``groups``, call ``connect``."""
        # Channels would join them without asking for what was missed. Groups that ``connect`` adds to the list stay.
        groups, self.groups = self.groups, []
        try:
            for group in groups:
                await self.join(group)
            await super().websocket_connect(message)
        finally:
            self.groups = [*groups, *self.groups]

    async def websocket_disconnect(self, message: Message) -> None:
        """Called when a client has disconnected: leave the groups, call ``disconnect``, stop."""
        await self._leave_all(but=self.groups)
        await super().websocket_disconnect(message)

    async def accept(self, *args: Any, **kwargs: Any) -> None:
        """Accept the client. Missed messages are handled when the calling handler returns."""
        await super().accept(*args, **kwargs)
        self._accepted()

    async def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the socket. No more missed messages are handled."""
        self._closed()
        await super().close(*args, **kwargs)

    async def send(self, text_data: str | None = None, bytes_data: bytes | None = None, close: Any = False) -> None:
        """Send a frame, with the position of the message that is being handled."""
        position = self._position_of_frame()
        if position is not None:
            if text_data is not None:
                text_data = self.text_with_position(text_data, position)
            elif bytes_data is not None:
                bytes_data = self.bytes_with_position(bytes_data, position)
        await super().send(text_data=text_data, bytes_data=bytes_data, close=close)

    async def send_json(self, content: Any, close: Any = False) -> None:
        """Send a frame of ``AsyncJsonWebsocketConsumer``, with the position of the message that is being handled."""
        position = self._position_of_frame()
        if position is not None:
            content = self.json_with_position(content, position)
        await super().send_json(content, close=close)

    def json_with_position(self, content: Any, position: str) -> Any:
        """Return the content of a JSON frame with its position: a dict gets one more key. Can be overridden."""
        return {**content, self.position_key: position} if isinstance(content, dict) else content

    def text_with_position(self, text: str, position: str) -> str:
        """Return a text frame with its position; text that is not a JSON object stays as it is. Can be overridden."""
        if not text.startswith("{"):
            return text
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if self.position_key in content:
            if content[self.position_key] == position:
                # Added by a ``send_json`` that ends up here.
                return text
            return json.dumps({**content, self.position_key: position})
        start = text.rstrip()[:-1]
        return f"{start}{', ' if content else ''}{json.dumps(self.position_key)}: {json.dumps(position)}}}"

    def bytes_with_position(self, data: bytes, position: str) -> bytes:
        """Return a binary frame with its position: unchanged, unless this is overridden."""
        return data

    async def missed(self, group: str) -> None:
        """
        Called when the client may have missed messages of a group that cannot be recovered.

        The client then has to reload the group's state. Sends ``{"type": "missed", "group": group}``. Can be
        overridden.
        """
        await self._tell({"type": "missed", "group": group})

    async def resumed(self, group: str, position: str, complete: bool) -> None:
        """
        Called when a group was joined and its missed messages have been handled.

        This gives the client a position from the start. Sends ``{"type": "resumed", "group": group, "complete":
        complete}`` together with the position, like every frame that is sent here. Can be overridden.

        ``complete``: whether the client has everything after the position that it sent.
        """
        await self._tell({"type": "resumed", "group": group, "complete": complete})

    async def _tell(self, content: dict[str, Any]) -> None:
        if isinstance(self, AsyncJsonWebsocketConsumer):
            await self.send_json(content)
        else:
            await self.send(text_data=json.dumps(content))

    def _since(self) -> Since:
        return Since.from_query(self.scope.get("query_string") or b"")
