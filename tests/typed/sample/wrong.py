"""What a strict type checker should refuse: each line that says so, for that reason, and no other. Never run."""

from __future__ import annotations

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from channels_redis_fast.serializers import BaseMessageSerializer, registry

RedisChannelLayer(hosts="redis://localhost", expiry="60")  # error: arg-type
RedisChannelLayer(capacity={"http.request": 1})  # error: arg-type
RedisChannelLayer(on_disconnect="bye")  # error: call-arg
RedisPubSubChannelLayer(on_disconnect=7)  # error: arg-type
RedisChannelLayer(on_drain=5.0)  # error: arg-type
RedisPubSubChannelLayer(history={"room": 5})  # error: dict-item

layer = RedisChannelLayer()


class Half(BaseMessageSerializer):
    def as_bytes(self, message: str) -> str:  # error: override
        return message


Half()  # error: abstract
registry.register_serializer("half", "Half")  # error: arg-type


class Other(RedisChannelLayer):
    async def send(self, channel: bytes, message: str) -> None:  # error: override
        pass


async def talk() -> None:
    await layer.send(7, {"type": "x"})  # error: arg-type
    await layer.send("x", "text")  # error: arg-type
    await layer.group_send("room")  # error: call-arg
    await layer.send_many([("x", "text")])  # error: list-item
    await layer.group_discard("room")  # error: call-arg
    layer.sync.group_send("room", {"type": "x"}, timeout="soon")  # error: arg-type
    channel: bytes = await layer.new_channel()  # error: assignment
    await layer.group_add("room", channel)  # error: arg-type
    await layer.group_history("room", since=5)  # error: arg-type
    messages: str = layer.sync.group_history("room").messages  # error: assignment
    message: str = await layer.receive("x")  # error: assignment
    total: str = layer.stats()["sends"]  # error: assignment
    layer.capacity = "many"  # error: assignment
    print(message, messages, total)
