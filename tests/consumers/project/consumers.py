"""
Consumers as a site would write them, each kind that Channels has: async and sync, JSON and plain, and jobs.

A user of a room says `{"say": number}`, `{"tell": number, "channel": name}` or `{"leave": true}`.
"""

from __future__ import annotations

import os
from typing import Any

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)

from channels_redis_fast.consumers import Resumable, ResumableEvents


class AsyncRoom(AsyncJsonWebsocketConsumer):
    """A room by the name in the path."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send_json({"channel": self.channel_name})

    async def receive_json(self, content: dict[str, Any], **others: Any) -> None:
        if "say" in content:
            said = {"type": "room.said", "by": self.channel_name, "number": content["say"]}
            await self.channel_layer.group_send(self.room, said)
        elif "tell" in content:
            told = {"type": "room.told", "by": self.channel_name, "number": content["tell"]}
            await self.channel_layer.send(content["channel"], told)
        elif "leave" in content:
            await self.channel_layer.group_discard(self.room, self.channel_name)
            await self.send_json({"left": self.room})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.send_json({"said": event["number"], "by": event["by"]})

    async def room_told(self, event: dict[str, Any]) -> None:
        await self.send_json({"told": event["number"], "by": event["by"]})

    async def redis_lost(self, event: dict[str, Any]) -> None:
        await self.send_json({"redis": "lost"})

    async def redis_back(self, event: dict[str, Any]) -> None:
        await self.send_json({"redis": "back"})


class SyncRoom(JsonWebsocketConsumer):
    """The same room, its users served by threads."""

    def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()
        self.send_json({"channel": self.channel_name})

    def receive_json(self, content: dict[str, Any], **others: Any) -> None:
        if "say" in content:
            said = {"type": "room.said", "by": self.channel_name, "number": content["say"]}
            async_to_sync(self.channel_layer.group_send)(self.room, said)
        elif "tell" in content:
            told = {"type": "room.told", "by": self.channel_name, "number": content["tell"]}
            async_to_sync(self.channel_layer.send)(content["channel"], told)
        elif "leave" in content:
            async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)
            self.send_json({"left": self.room})

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)

    def room_said(self, event: dict[str, Any]) -> None:
        self.send_json({"said": event["number"], "by": event["by"]})

    def room_told(self, event: dict[str, Any]) -> None:
        self.send_json({"told": event["number"], "by": event["by"]})

    def redis_lost(self, event: dict[str, Any]) -> None:
        self.send_json({"redis": "lost"})

    def redis_back(self, event: dict[str, Any]) -> None:
        self.send_json({"redis": "back"})


class AsyncLobby(AsyncWebsocketConsumer):
    """Who is connected is in the groups, by Channels' own doing; what one sends, all get, text or bytes."""

    groups = ("lobby", "hall")

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        passed = {"type": "lobby.passed", "text": text_data, "bytes": bytes_data}
        await self.channel_layer.group_send("hall" if bytes_data else "lobby", passed)

    async def lobby_passed(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"], bytes_data=event["bytes"])


class SyncLobby(WebsocketConsumer):
    """The same lobby, its users served by threads."""

    groups = ("lobby", "hall")

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        passed = {"type": "lobby.passed", "text": text_data, "bytes": bytes_data}
        async_to_sync(self.channel_layer.group_send)("hall" if bytes_data else "lobby", passed)

    def lobby_passed(self, event: dict[str, Any]) -> None:
        self.send(text_data=event["text"], bytes_data=event["bytes"])


class ResumableRoom(Resumable, AsyncJsonWebsocketConsumer):
    """A room whose users miss nothing; a room with a history has a name that begins with `room.`."""

    async def connect(self) -> None:
        await self.join(self.scope["url_route"]["kwargs"]["room"])
        await self.accept()

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.send_json({"said": event["number"]})


class RoomEvents(ResumableEvents):
    """The same, for those who only listen."""

    heartbeat = 0.2
    retry = 100

    async def handle(self, body: bytes) -> None:
        await self.join(self.scope["url_route"]["kwargs"]["room"])
        await self.accept()

    async def room_said(self, event: dict[str, Any]) -> None:
        await self.send_event(str(event["number"]))

    async def disconnect(self) -> None:
        write_down("left", self.scope["url_route"]["kwargs"]["room"])


class AsyncJobs(AsyncConsumer):
    """Does the jobs of a general channel."""

    async def job(self, event: dict[str, Any]) -> None:
        write_down("did", "async", event["number"])


class SyncJobs(SyncConsumer):
    """Does the jobs of a general channel in threads."""

    def job(self, event: dict[str, Any]) -> None:
        write_down("did", "sync", event["number"])


def write_down(*words: object) -> None:
    """Print a line with one system call: not even a process that is killed prints half of it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())
