"""channels_redis in the same fleet: it gets the messages with one key more, and what it sends is not in the history."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import redis

from bench.server import start_server
from tests.core.helpers import nothing_to_receive, receive_many, until, within
from tests.history.pubsub import FIELD, MakeLayer, codec, every_codec, make_layer, member, sharded
from tests.pubsub.helpers import subscribers

__all__ = ["codec", "make_layer", "sharded"]

#: A process of channels_redis: it prints what it gets, and sends each message back as it is.
PEER = """
import asyncio, json, sys
from channels_redis.pubsub import RedisPubSubChannelLayer

async def main():
    layer = RedisPubSubChannelLayer(**json.loads(sys.argv[1]))
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    print(json.dumps("ready"), flush=True)
    for _ in range(2):
        message = await layer.receive(channel)
        print(json.dumps(message), flush=True)
    await layer.group_send("room", message)
    await layer.group_send("room", {"type": "theirs"})
    print(json.dumps("sent"), flush=True)
    sys.stdin.readline()

asyncio.run(main())
"""


@every_codec
@pytest.mark.single_server("channels_redis knows no cluster")
async def test_a_mixed_fleet(make_layer: MakeLayer, upstream_python: Path, prefix: str, codec: str) -> None:
    with start_server() as server, redis.Redis.from_url(server.url) as raw:
        layer = make_layer(hosts=[server.url])
        options = {"hosts": [server.url], "prefix": prefix}
        if codec == "encrypted":
            options["symmetric_encryption_keys"] = ["secret"]
        elif codec == "json":
            options["serializer_format"] = "json"
        channel = await member(layer, "room")
        peer = await asyncio.create_subprocess_exec(
            upstream_python,
            "-c",
            PEER,
            json.dumps(options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert peer.stdout is not None
        try:
            assert json.loads(await within(peer.stdout.readline())) == "ready"
            # It does not wait for its subscription.
            await until(lambda: subscribers(raw, f"{prefix}__group__room") == 2)
            for n in range(2):
                await layer.group_send("room", {"type": "ours", "n": n})
            kept = (await layer.group_history("room")).messages
            theirs = [json.loads(await within(peer.stdout.readline())) for _ in range(2)]
            assert theirs == kept
            assert [message[FIELD] for message in theirs] == sorted(message[FIELD] for message in kept)
            # What it sends, also an event that it forwards whole, is delivered, and not in the history.
            got = await receive_many(layer, channel, 4)
            assert got == [*kept, kept[-1], {"type": "theirs"}]
            assert json.loads(await within(peer.stdout.readline())) == "sent"
            history = await layer.group_history("room", kept[-1][FIELD])
            assert (history.messages, history.complete) == ([], True)
            await nothing_to_receive(layer, channel)
        finally:
            peer.kill()
            await within(peer.communicate())
