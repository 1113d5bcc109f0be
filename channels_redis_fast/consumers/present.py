"""``Present``: consumers whose users are present in the groups that they enter."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from channels.consumer import AsyncConsumer, SyncConsumer
from redis.exceptions import RedisError

from .needed import layer_with
from .recovery import RecoveringConsumer
from .sources import Message

logger = logging.getLogger("channels_redis_fast")


class Present(AsyncConsumer):  # type: ignore[misc]
    """
    Makes the user of a consumer present: ``class Chat(Present, AsyncJsonWebsocketConsumer)``.

    ``enter`` joins a group and makes the user present there; ``exit`` ends both, and so does the end of the consumer,
    whatever causes it. Several consumers of one user count as one presence. To combine it with ``Resumable`` or
    ``ResumableEvents``, put it in front of them.

    Needs a layer of this package with the option ``presence``; otherwise an error says so when a client enters.
    """

    _entered: dict[str, None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, SyncConsumer):
            raise TypeError(
                f"{cls.__qualname__} is a SyncConsumer, which cannot be present: derive it from an async consumer."
            )

    def presence_user(self) -> str | int | None:
        """
        Return who is present, or None for somebody who is counted and not named. Can be overridden.

        By default this is the primary key of ``scope["user"]``, as an int or converted to a str, or None for a user who
        has not logged in.
        """
        user = self.scope.get("user")
        if user is None or not user.is_authenticated:
            return None
        return user.pk if isinstance(user.pk, (int, str)) else str(user.pk)

    async def enter(self, group: str, info: Any = None) -> None:
        """
        Join a group, and make the user present in it.

        ``info``: what others see of the user, anything that the layer's serializer accepts; the value of the user's
        latest channel counts. Raises ``RuntimeError`` if the layer has no presence, and redis-py's errors.
        """
        layer = layer_with(self, "presence_join", "presence", "none")
        # Recorded first: whatever has begun has to be undone, however far it came.
        self._entered[group] = None
        if isinstance(self, RecoveringConsumer):
            await self.join(group)
        else:
            await layer.group_add(group, self.channel_name)
        await layer.presence_join(group, self.channel_name, self.presence_user(), info)

    async def exit(self, group: str) -> None:
        """Leave a group that was entered; does nothing if it was not. Raises redis-py's errors."""
        if group not in self._entered:
            return
        await self.channel_layer.presence_leave(group, self.channel_name)
        if isinstance(self, RecoveringConsumer):
            await self.leave(group)
        else:
            await self.channel_layer.group_discard(group, self.channel_name)
        self._entered.pop(group, None)

    async def presence_join(self, event: Message) -> None:
        """Called when a user, possibly this one, has come to an entered group. Can be overridden."""

    async def presence_leave(self, event: Message) -> None:
        """Called when a user has left an entered group. Can be overridden."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve as the application of one connection."""
        self._entered = {}
        try:
            await super().__call__(scope, receive, send)
        except GeneratorExit:
            # The garbage collector ends it, and nothing can be awaited any more.
            self._entered.clear()
            raise
        finally:
            # Here, since an error in a handler or a server that shuts down ends a consumer without a disconnect
            # message.
            if self._entered:
                await self._exit_all()

    async def _exit_all(self) -> None:
        groups = list(self._entered)
        outcomes = await asyncio.gather(*map(self.exit, groups), return_exceptions=True)
        for group, outcome in zip(groups, outcomes, strict=True):
            if isinstance(outcome, RedisError):
                logger.warning("A consumer could not leave group %r as it ended: %s", group, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
