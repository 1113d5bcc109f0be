"""``group_send(..., exclude=[...])`` on core: what stands in Redis, and the lists that a layer remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.core.names import without

MakeLayer = Callable[..., RedisChannelLayer]


async def test_the_name_is_in_no_member(make_layer: MakeLayer, raw: Any, prefix: str) -> None:
    """Nor is any word of this package: channels_redis delivers to the others alone."""
    layer = make_layer()
    await layer.group_add("room", "x.y!1")
    await layer.group_add("room", "x.y!2")
    for _ in range(2):
        await layer.group_send("room", {"type": "said"}, exclude=["x.y!1"])
    stored = raw.zrange(f"{prefix}x.y!", 0, -1)
    assert len(stored) == 2
    for member in stored:
        assert b"x.y!2" in member
        assert b"x.y!1" not in member
        assert b"exclude" not in member


def test_without_leaves_the_lists_as_they_were() -> None:
    keys, channels = [b"a!", b"b!", b"c"], [["a!1", "a!2"], ["b!1"], ["c"]]
    assert without((keys, channels), frozenset({"a!2", "c"})) == ([b"a!", b"b!"], [["a!1"], ["b!1"]])
    assert (keys, channels) == ([b"a!", b"b!", b"c"], [["a!1", "a!2"], ["b!1"], ["c"]])
