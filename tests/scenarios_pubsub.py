"""What channels_redis 4.3 gets wrong on Pub/Sub and this layer gets right; as `scenarios.py` has it for the core layer.

    python -m tests.scenarios_pubsub NAME --url URL --second-url URL --prefix PREFIX

It imports nothing that upstream's venv does not have, and knows both layers only by their public API. Only the second
server is disturbed, and only by killing connections of our own prefix.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import redis

from tests.scenarios import PATIENCE, Environment, Scenario, main, receive, result, until

UPSTREAM = "channels_redis.pubsub.RedisPubSubChannelLayer"

SCENARIOS: dict[str, Scenario] = {}


def scenario(upstream: str) -> Callable[[Callable[[Environment], Any]], Callable[[Environment], Any]]:
    def register(run: Callable[[Environment], Any]) -> Callable[[Environment], Any]:
        SCENARIOS[run.__name__] = Scenario(run, upstream)
        return run

    return register


def listeners(env: Environment, client: Any) -> list[str]:
    """The ids of our connections to the second server that subscribe."""
    return [c["id"] for c in client.client_list() if c["name"] == env.prefix and int(c["sub"])]


def on_second(env: Environment, **options: Any) -> Any:
    return env.make_layer(hosts=[env.named(env.second_url)], **options)


async def lose_subscriptions(env: Environment, client: Any) -> None:
    before = listeners(env, client)
    assert before, "nobody subscribes"
    for number in before:
        client.client_kill_filter(_id=number)
    await until(lambda: not set(before) & set(listeners(env, client)), "the connection lives on")


# Outages.


@scenario(upstream="no word of the (outage|return): nothing came")
async def outages_are_told(env: Environment) -> None:
    """`on_disconnect` and `on_reconnect` are delivered to every channel, and all go on receiving."""
    layer, client = on_second(env, on_disconnect="down", on_reconnect="up"), env.client(env.second_url)
    channels = [await layer.new_channel() for _ in range(3)]
    consumers = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
    await lose_subscriptions(env, client)
    for channel, consumer in zip(channels, consumers, strict=True):
        assert await result(consumer, "no word of the outage") == {"type": "down"}
        assert await receive(layer, channel, "no word of the return") == {"type": "up"}
        await layer.send(channel, {"to": channel})
        assert await receive(layer, channel, "after the outage") == {"to": channel}


@scenario(upstream=r"blind for [\d.]+ s after an error")
async def no_blindness_after_an_error(env: Environment) -> None:
    """A killed connection is replaced at once."""
    layer, peer, client = on_second(env), env.make_layer(hosts=[env.second_url]), env.client(env.second_url)
    channel = await layer.new_channel()
    await peer.send(channel, {"type": "warm"})
    await receive(layer, channel, "before the error")
    blind: list[float] = []

    async def hear(message: dict[str, Any]) -> None:
        while await layer.receive(channel) != message:
            pass

    # Upstream sleeps one second after any error, so each time; a busy machine takes long now and then.
    while min(blind, default=1.0) > 0.7 and len(blind) < 5:
        for number in listeners(env, client):
            client.client_kill_filter(_id=number)
        begin = time.monotonic()
        receiving = asyncio.ensure_future(hear({"n": len(blind)}))
        while not receiving.done():
            assert time.monotonic() - begin < PATIENCE, "deaf for good"
            with contextlib.suppress(redis.exceptions.ConnectionError):
                await peer.send(channel, {"n": len(blind)})
            await asyncio.wait([receiving], timeout=0.01)
        blind.append(time.monotonic() - begin)
    assert min(blind) < 0.7, f"blind for {min(blind):.2f} s after an error, or longer"


# Subscribing.


@scenario(upstream="group_add returned without the server's word")
async def subscriptions_are_awaited(env: Environment) -> None:
    """`group_add` and `new_channel` return when the server has subscribed: one that holds still is waited for."""
    layer, client = on_second(env), env.client(env.second_url)
    channel = await layer.new_channel()
    for name, call in (("group_add", lambda: layer.group_add("room", channel)), ("new_channel", layer.new_channel)):
        begin = time.monotonic()
        client.client_pause(400, all=True)
        calling = asyncio.ensure_future(call())
        await asyncio.wait([calling], timeout=0.2)
        early = calling.done() and time.monotonic() - begin < 0.4
        assert not early, f"{name} returned without the server's word"
        await result(calling, name)


# Mailboxes.


@scenario(upstream="30000 messages wait for one slow consumer")
async def what_waits_is_bounded(env: Environment) -> None:
    """A consumer that does not receive costs a bounded amount of memory, and gets the latest messages."""
    layer, client = env.make_layer(), env.client()
    channel, other = await layer.new_channel(), await layer.new_channel()
    for start in range(0, 30_000, 1000):
        with client.pipeline(transaction=False) as pipeline:
            for number in range(start, start + 1000):
                pipeline.publish(channel, layer.serialize({"number": number}))
            pipeline.execute()
        # Behind the messages, so that all of them have been read.
        await layer.send(other, {"start": start})
        assert await receive(layer, other, "beside a slow consumer") == {"start": start}
    await layer.send(channel, {"number": None})
    waiting = 0
    while (await receive(layer, channel, "what waits"))["number"] is not None:
        waiting += 1
    assert waiting <= 10_000, f"{waiting} messages wait for one slow consumer"


@scenario(upstream="the consumer died")
async def unreadable_payloads_are_skipped(env: Environment) -> None:
    """What somebody else publishes on a channel does not kill its consumer."""
    layer, client = env.make_layer(), env.client()
    channel = await layer.new_channel()
    receiving = asyncio.ensure_future(layer.receive(channel))
    client.publish(channel, b"\xc1")
    await layer.send(channel, {"n": 1})
    await asyncio.wait([receiving], timeout=PATIENCE)
    assert receiving.done(), "nothing came"
    assert receiving.exception() is None, f"the consumer died: {receiving.exception()!r}"
    assert receiving.result() == {"n": 1}


@scenario(upstream=r"\d+ of 500 messages lost")
async def polling_loses_nothing(env: Environment) -> None:
    """Receives with a short timeout, repeated, as a caller does that looks in now and then."""
    layer, peer = env.make_layer(), env.make_layer()
    channel = await layer.new_channel()
    got: list[int] = []

    async def send() -> None:
        for number in range(500):
            await peer.send(channel, {"number": number})
            await asyncio.sleep(0.0005)

    sending = asyncio.ensure_future(send())
    deadline = time.monotonic() + 2 * PATIENCE
    while len(got) < 500 and time.monotonic() < deadline:
        with contextlib.suppress(asyncio.TimeoutError):
            got.append((await asyncio.wait_for(layer.receive(channel), 0.001))["number"])
    await result(sending, "the sender")
    assert len(set(got)) == 500, f"{500 - len(set(got))} of 500 messages lost"
    assert got == list(range(500)), "doubled, or out of order"


# Outside a loop.


@scenario(upstream="RuntimeError: no running event loop")
def use_outside_a_loop(env: Environment) -> None:
    """The shell, the admin and Channels itself look at a layer where no loop runs."""
    layer = env.make_layer()
    assert {"groups", "flush"} <= set(layer.extensions)
    assert hasattr(layer, "prefix")
    assert str(layer)


if __name__ == "__main__":
    main(SCENARIOS, UPSTREAM)
