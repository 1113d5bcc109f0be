"""Each function of the hot path, compiled beside pure beside upstream's way: `pytest bench/test_hot.py`.

Only the ratio within one run says anything. It knows typical inputs; the tests know the odd ones.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

import pytest

from bench import upstream_ways
from channels_redis_fast.hot import envelope

SPECIFIC = "specific.0123456789abcdef0123456789abcdef!0123456789abcdef0123456789abcdef"
FLAT = {"type": "chat.message", "text": "hello world", "n": 7, "user": "alice"}
NESTED = {"type": "chat.message", "payload": {"id": 7, "tags": ["a", "b"], "ok": True}, "user": "alice"}
GLOBS = {"http.request": 200, "http.response!*": 10, "websocket.[rs]*!*": 30}

ONE_PROCESS = [f"specific.{'ab' * 16}!{number:032x}".encode() for number in range(1000)]
HUNDRED_PROCESSES = [f"specific.{number % 100:032x}!{number:032x}".encode() for number in range(1000)]
NAMES = [[name.decode() for name in ONE_PROCESS[start : start + 100]] for start in range(0, 1000, 100)]

BODY = envelope.pack(FLAT)
SEND = ["EVALSHA", "0" * 40, 1, b"asgispecific.0123456789abcdef!", BODY, 60, 100, 1700000000.25]

CALLS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "kind": ("names", "kind", (SPECIFIC,)),
    "is_group": ("names", "is_group", ("chat.room.1",)),
    "key": ("names", "key", (b"asgi", SPECIFIC, 42)),
    "shard": ("names", "shard", (SPECIFIC, 3)),
    "split-1000-on-1-key": ("names", "split", (ONE_PROCESS, b"asgi", 1)),
    "split-1000-on-100-keys": ("names", "split", (HUNDRED_PROCESSES, b"asgi", 4)),
    "capacity-of-3-globs": ("capacity", "lookup", (SPECIFIC,)),
    "pack": ("envelope", "pack", (FLAT,)),
    "encode": ("envelope", "encode", (FLAT, SPECIFIC, 12)),
    "encode-nested": ("envelope", "encode", (NESTED, SPECIFIC, 12)),
    "splice": ("envelope", "splice", (BODY, SPECIFIC)),
    "frames-10-of-100": ("envelope", "frames", (BODY, NAMES, 12)),
    "find": ("names", "find", ({SPECIFIC[:42]: 1}, SPECIFIC)),
    "decode": ("envelope", "decode", (envelope.encode(FLAT, SPECIFIC, 12), 12)),
    "decode-general": ("envelope", "decode", (envelope.encode(FLAT, None, 12), 12)),
    "decode-nested": ("envelope", "decode", (envelope.encode(NESTED, SPECIFIC, 12), 12)),
    "decode-group-of-100": ("envelope", "decode", (envelope.splice(BODY, NAMES[0]), 0)),
    "clone": ("envelope", "clone", (FLAT,)),
    "clone-nested": ("envelope", "clone", (NESTED,)),
    "next_prefix": ("envelope", "next_prefix", (12,)),
    "assemble-10": ("pipeline", "assemble", ([SEND] * 10,)),
}


# Where upstream's way takes the message itself, which ours has packed already. It has none for the others.
UPSTREAM_ARGUMENTS = {"frames-10-of-100": (FLAT, NAMES, 12)}
ONLY_OURS = {"splice", "find"}
RECEIVERS = 100


def find(twin: str, module: str, name: str) -> Any:
    """The function of one twin; `lookup` is that of a table."""
    if twin == "upstream":
        owner: Any = upstream_ways
    elif twin == "compiled":
        owner = pytest.importorskip(f"channels_redis_fast._ext.{module}", reason="the compiled modules are not built")
    else:
        owner = import_module(f"channels_redis_fast.hot.{module}")
    return owner.CapacityTable(GLOBS, 100).lookup if name == "lookup" else getattr(owner, name)


@pytest.mark.parametrize("twin", ["compiled", "pure", "upstream"])
@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.benchmark(group=case)) for case in CALLS])
def test_hot(benchmark: Any, case: str, twin: str) -> None:
    module, name, arguments = CALLS[case]
    if twin == "upstream":
        if case in ONLY_OURS:
            pytest.skip("upstream has nothing like it")
        arguments = UPSTREAM_ARGUMENTS.get(case, arguments)
    benchmark(find(twin, module, name), *arguments)


@pytest.mark.benchmark(group=f"wake-{RECEIVERS}")
@pytest.mark.parametrize("twin", ["compiled", "pure", "upstream"])
def test_waiters(benchmark: Any, twin: str) -> None:
    """Tasks that wait and are all served within one tick; making the tasks is in it, for all the same."""
    make_waker = None if twin == "upstream" else find(twin, "waiters", "Waker")

    async def take(waiter: Any) -> Any:
        await waiter
        return waiter.take()

    async def wake() -> None:
        waker = make_waker(asyncio.get_running_loop())
        waiters = [waker.waiter() for _ in range(RECEIVERS)]
        tasks = [asyncio.ensure_future(take(waiter)) for waiter in waiters]
        await asyncio.sleep(0)
        for number, waiter in enumerate(waiters):
            waiter.set_result(number)
        await asyncio.gather(*tasks)

    loop = asyncio.new_event_loop()
    try:
        benchmark(lambda: loop.run_until_complete(upstream_ways.wake(RECEIVERS) if make_waker is None else wake()))
    finally:
        loop.close()


@pytest.mark.benchmark(group=f"hand-out-{RECEIVERS}")
@pytest.mark.parametrize("twin", ["compiled", "pure"])
def test_hand_out(benchmark: Any, twin: str) -> None:
    """A broadcast's message to each channel that somebody waits on."""
    waker = find(twin, "waiters", "Waker")(asyncio.new_event_loop())
    table = find(twin, "mailboxes", "MailboxTable")(find(twin, "mailboxes", "Lock")())
    channels = [f"channel.{number}" for number in range(RECEIVERS)]

    def set_up() -> tuple[tuple[Any, ...], dict[str, Any]]:
        for channel in channels:
            table.claim(channel, waker)
        return ([(channels, FLAT)], waker), {}

    try:
        benchmark.pedantic(table.hand_out, setup=set_up, rounds=2000)
    finally:
        waker.loop.close()
