"""``ResumableEvents``: Server-Sent Events whose clients miss nothing across a reconnect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterable
from typing import Any

from channels.exceptions import StopConsumer
from channels.generic.http import AsyncHttpConsumer

from .recovery import RecoveringConsumer
from .since import Since
from .sources import Message

#: Line endings in the format of event streams (WHATWG HTML, section 9.2.5).
_LINE_END = re.compile("\r\n|\r|\n")


class ResumableEvents(RecoveringConsumer, AsyncHttpConsumer):  # type: ignore[misc]
    """
    An endless response of Server-Sent Events: ``class Feed(ResumableEvents, AsyncHttpConsumer)``.

    Handlers of group messages call ``send_event``. The ``id`` of each event holds the positions of all groups, and
    ``EventSource`` sends the last one when it reconnects; a first request may have ``?since=``. What the client
    missed in the groups in ``groups``, and in those that the consumer joins with ``join``, goes through the
    consumer's handlers.

    Needs a layer with the option ``history`` for these groups; an error says so when a client connects.
    """

    #: The groups that every client is in.
    groups: Iterable[str] = ()

    #: Seconds between comments, which show proxies and servers that the connection is alive; None for no comments.
    heartbeat: float | None = 15.0

    #: Milliseconds after which a browser reconnects; None for the browser's own choice.
    retry: int | None = None

    _heart: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve as the application of one connection."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._heart is not None:
                self._heart.cancel()
                await asyncio.wait([self._heart])

    async def handle(self, body: bytes) -> None:
        """
        Called with the request.

        Override it to check ``scope``, ``join`` groups, and then ``accept`` or refuse with ``send_response``.
        """
        await self.accept()

    async def accept(self, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Begin the response. Missed messages are handled when the calling handler returns."""
        await self.send_headers(
            headers=[
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-store"),
                # Otherwise nginx would buffer the response.
                (b"x-accel-buffering", b"no"),
                *headers,
            ]
        )
        # Servers send the headers with the first part of the body.
        await self.send_body(b":\n\n" if self.retry is None else b"retry: %d\n\n" % self.retry, more_body=True)
        self._accepted()
        if self.heartbeat is not None:
            self._heart = asyncio.ensure_future(self._beat(self.heartbeat))

    async def close(self) -> None:
        """End the response. No more missed messages are handled. A browser reconnects automatically."""
        self._closed()
        await self.send_body(b"")

    async def send_event(self, data: str, event: str | None = None) -> None:
        """
        Send an event. In a handler of a group message, its ``id`` holds the positions of all groups.

        ``event``: its type, ``message`` if None. Raises ``ValueError`` if the type has several lines.
        """
        lines = []
        if event is not None:
            if _LINE_END.search(event):
                raise ValueError(f"The type of an event must be one line, not {event!r}")
            lines.append(f"event: {event}")
        recovery = self._recovery
        if recovery is not None and recovery.groups and self._position_of_frame() is not None:
            lines.append("id: " + ",".join(group.position for group in recovery.groups.values()))
        lines += [f"data: {line}" for line in _LINE_END.split(data)]
        await self.send_body(("\n".join(lines) + "\n\n").encode(), more_body=True)

    async def missed(self, group: str) -> None:
        """
        Called when the client may have missed messages of a group that cannot be recovered.

        The client then has to reload the group's state. Sends an event ``missed`` with ``{"group": group}``. Can be
        overridden.
        """
        await self.send_event(json.dumps({"group": group}), "missed")

    async def resumed(self, group: str, position: str, complete: bool) -> None:
        """
        Called when a group was joined and its missed messages have been handled.

        This gives the client an ``id`` from the start. Sends an event ``resumed`` with ``{"group": group, "complete":
        complete}``. Can be overridden.

        ``complete``: whether the client has everything after the position that it sent.
        """
        await self.send_event(json.dumps({"group": group, "complete": complete}), "resumed")

    async def dispatch(self, message: Message) -> None:
        """Call the handler of a message, like any resumable consumer; stop if the handler ended the response."""
        await super().dispatch(message)
        if self._recovery is not None and self._recovery.is_closed:
            await self._end()
            raise StopConsumer

    async def http_request(self, message: Message) -> None:
        """Called with each part of the request: join the groups, call ``handle``, and continue if it accepted."""
        self.body.append(message.get("body", b""))
        if message.get("more_body"):
            return
        try:
            for group in self.groups:
                await self.join(group)
            await self.handle(b"".join(self.body))
        except BaseException:
            await self._end()
            raise
        if self._recovery is None or not self._recovery.is_open:
            await self._end()
            raise StopConsumer

    async def http_disconnect(self, message: Message) -> None:
        """Called when a client has disconnected: leave the groups, call ``disconnect``, stop."""
        await self._leave_all()
        await super().http_disconnect(message)

    async def _end(self) -> None:
        try:
            await self._leave_all()
        finally:
            await self.disconnect()

    async def _beat(self, seconds: float) -> None:
        # The server also reports a client that has gone.
        with contextlib.suppress(OSError, RuntimeError):
            while True:
                await asyncio.sleep(seconds)
                if self._recovery is None or not self._recovery.is_open:
                    return
                await self.send_body(b":\n\n", more_body=True)

    def _since(self) -> Since:
        for name, value in self.scope.get("headers", ()):
            if name.lower() == b"last-event-id" and value:
                return Since.from_event_id(value)
        return Since.from_query(self.scope.get("query_string") or b"")
