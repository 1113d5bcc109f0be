"""``group_send(..., exclude=[...])`` on Pub/Sub: the names travel in the message, and its receivers obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from channels_redis_fast.pubsub import RedisPubSubChannelLayer
from tests.both.test_exclude import members, see
from tests.core.helpers import receive_many
from tests.pubsub.helpers import listening, payload

MakeLayer = Callable[..., RedisPubSubChannelLayer]

EXCLUDED = "__exclude__"


async def test_the_names_in_a_payload(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """As the documentation says it, which is for those who have written a receiver of their own."""
    layer = make_layer()
    first, second = channels = await members("pubsub", layer)
    with listening(raw, f"{prefix}__group__room") as ear:
        await layer.group_send("room", {"type": "said", EXCLUDED: "what was there"}, exclude=[second, first])
        assert msgpack.unpackb(payload(ear)) == {"type": "said", EXCLUDED: sorted([first, second])}
    # Anybody may publish one.
    raw.publish(f"{prefix}__group__room", msgpack.packb({EXCLUDED: [first], "n": 1}))
    await see(dict.fromkeys(channels, layer), [({"n": 1}, {first})])


@pytest.mark.parametrize("value", [None, "x", [], ["x", 1], {"x": 1}, 5, [["x"]]])
async def test_something_else_under_that_key(make_layer: MakeLayer, raw: Any, prefix: str, value: Any) -> None:
    """Of nobody who knows of it: the message is delivered as it is."""
    layer = make_layer()
    channels = await members("pubsub", layer)
    raw.publish(f"{prefix}__group__room", msgpack.packb({EXCLUDED: value, "n": 1}))
    raw.publish(f"{prefix}__group__room", msgpack.packb([EXCLUDED]))
    await see(channels, [({EXCLUDED: value, "n": 1}, set()), ([EXCLUDED], set())])


async def test_a_message_to_one_channel_means_nothing_by_it(make_layer: MakeLayer) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {EXCLUDED: [channel]})
    assert await receive_many(layer, channel, 1) == [{EXCLUDED: [channel]}]


async def test_a_key_that_core_reserves(make_layer: MakeLayer) -> None:
    """`__asgi_channel__` is a site's own here, wherever it stands and whatever it says."""
    layer = make_layer()
    channels = await members("pubsub", layer)
    sent: list[tuple[Any, set[str]]] = [
        ({"__asgi_channel__": value, "n": 1}, set()) for value in ("x", ["x"], [], None, 5, {"x": []})
    ]
    for message, _ in sent:
        await layer.group_send("room", message)
    await see(channels, sent)


@pytest.mark.parametrize(
    ("exclude", "message", "text"),
    [
        (["x"], ["no dict"], "room must be a dict, to carry the names that it excludes; it is list"),
        (["x"], None, "room must be a dict, to carry the names that it excludes; it is NoneType"),
    ],
)
async def test_a_message_that_cannot_carry_the_names(
    make_layer: MakeLayer, exclude: Any, message: Any, text: str
) -> None:
    layer = make_layer()
    channels = await members("pubsub", layer)
    with pytest.raises(TypeError, match=text):
        await layer.group_send("room", message, exclude=exclude)
    with pytest.raises(TypeError):
        await layer.group_send_many([("room", {"n": 2}), ("room", message, exclude)])
    await layer.group_send("room", ["no dict"], exclude=[])  # type: ignore[arg-type]
    await see(channels, [(["no dict"], set())])
