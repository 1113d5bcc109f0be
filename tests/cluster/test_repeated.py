"""What a new server hands out again is left out; what the first one hands out is not searched for."""

from __future__ import annotations

import asyncio
from typing import Any

from channels_redis_fast.core.cluster_pump import DOUBTFUL, View


class Pump:
    """What a view asks of its pump here: which server has the key."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.server = object()
        self.distinguishes_equal_messages = True

    def server_of(self, key: bytes) -> object:
        return self.server


class Target:
    key = b"asgispecific.x!"


async def test_only_a_server_that_is_new_is_doubted() -> None:
    pump: Any = Pump()
    target: Any = Target()
    view = View(pump, target)
    assert view._without_repeated([b"one", b"two"]) == [b"one", b"two"]
    view._removed.extend(map(hash, (b"one", b"two")))
    # The first server took them away itself: looking through thousands of names for each message found nothing.
    assert view._without_repeated([b"one", b"three"]) == [b"one", b"three"]
    pump.server = object()
    assert view._without_repeated([b"one", b"three"]) == [b"three"]
    assert view._doubtful_until > pump.loop.time()
    assert view._doubtful_until <= pump.loop.time() + DOUBTFUL


async def test_equal_messages_that_cannot_be_told_apart_are_all_delivered() -> None:
    """Without a random prefix of some length the same again is as likely a message of its own."""
    pump: Any = Pump()
    pump.distinguishes_equal_messages = False
    view = View(pump, Target())  # type: ignore[arg-type]
    assert view._without_repeated([b"same"]) == [b"same"]
    view._removed.append(hash(b"same"))
    pump.server = object()
    assert view._without_repeated([b"same"]) == [b"same"]
