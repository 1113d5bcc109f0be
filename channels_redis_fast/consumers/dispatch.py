"""
``DirectDispatch``: does with messages what Channels' ``AsyncConsumer`` does, at a fraction of the cost.

Its two methods are ``AsyncConsumer.__call__`` and ``AsyncConsumer.dispatch`` of Channels 4.2 and 4.3, except for two
things: how it waits for messages (``sources``), and when it hops to the thread of the database connections before a
handler (``databases``).
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from asgiref.sync import async_to_sync
from channels import consumer as channels_consumer
from channels.exceptions import StopConsumer

from .databases import stale_connections
from .disconnect import DISCONNECTS
from .sources import Message, dispatch_all

#: How many message types' handler names are remembered.
MAX_NAMES = 1024

_names: dict[str, str] = {}


def _handler_name(message: Message) -> str:
    name: str = channels_consumer.get_handler_name(message)
    if len(_names) < MAX_NAMES and type(message["type"]) is str:
        _names[message["type"]] = name
    return name


class DirectDispatch(channels_consumer.AsyncConsumer):  # type: ignore[misc]
    """
    Makes a consumer class of another package fast: ``class Feed(DirectDispatch, TheirConsumer)``.

    If their class overrides ``__call__`` or ``dispatch``, put the mixin last, ``class Feed(TheirConsumer,
    DirectDispatch)``, so that their method is called first. With a ``SyncConsumer``, handlers stay in Channels' thread.

    Raises ``TypeError`` when the class is created, if it is not an ``AsyncConsumer``, or if one of its methods would be
    skipped.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        base = channels_consumer.AsyncConsumer
        if not any(issubclass(parent, base) for parent in cls.__bases__ if parent is not DirectDispatch):
            raise TypeError(
                f"{cls.__qualname__} uses DirectDispatch but is not an AsyncConsumer: derive it from a consumer "
                "class as well, for example channels_redis_fast.consumers.AsyncConsumer."
            )
        order = cls.__mro__
        for skipped in order[order.index(DirectDispatch) + 1 : order.index(base)]:
            for name in ("__call__", "dispatch"):
                if name in vars(skipped) and skipped is not channels_consumer.SyncConsumer:
                    raise TypeError(
                        f"DirectDispatch would skip {skipped.__qualname__}.{name}: put it last, "
                        f"class {cls.__name__}({skipped.__name__}, DirectDispatch)."
                    )
        for name, (original, direct) in DISCONNECTS.items():
            if getattr(cls, name, None) is original:
                setattr(cls, name, direct)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve as the application of one connection: receive messages and dispatch them until ``StopConsumer``."""
        self.scope = scope
        receives = [receive]
        # Looked up where Channels looks it up.
        self.channel_layer = channels_consumer.get_channel_layer(self.channel_layer_alias)
        if self.channel_layer is not None:
            self.channel_name = await self.channel_layer.new_channel()
            self.channel_receive = functools.partial(self.channel_layer.receive, self.channel_name)
            receives.append(self.channel_receive)
        self.base_send = async_to_sync(send) if self._sync else send
        with contextlib.suppress(StopConsumer):
            await dispatch_all(receives, self.dispatch)

    async def dispatch(self, message: Message) -> None:
        """
        Call the handler of a message. Can be overridden.

        Raises ``ValueError`` with Channels' text for a message without a type, with a leading underscore, or without
        a handler.
        """
        # ``install`` puts this function into Channels' own class, so it uses nothing of this class except in the mixin.
        if self._sync:
            await super().dispatch(message)
            return
        try:
            name = _names[message["type"]]
        except (KeyError, TypeError):
            name = _handler_name(message)
        handler = getattr(self, name, None)
        if not handler:
            raise ValueError(f"No handler for message type {message['type']}")
        stale = self.__dict__.get("_stale_connections") or stale_connections(self)
        if stale.exist():
            await stale.close()
        await handler(message)
