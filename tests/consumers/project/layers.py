"""A core layer that writes down what it hands to its process, for tests that end the process in the middle of it."""

from __future__ import annotations

from typing import Any

from channels_redis_fast.core import RedisChannelLayer
from tests.consumers.project.consumers import write_down


class BookkeepingLayer(RedisChannelLayer):
    """Says which jobs Channels was given: its worker takes them ahead of the consumer that does them."""

    async def receive(self, channel: str) -> Any:
        message = await super().receive(channel)
        if message.get("type") == "job":
            write_down("took", message["number"])
        return message
