"""Each function of the hot path, compiled beside pure: `pytest bench/test_hot.py`.

Only the ratio within one run says anything. It knows typical inputs; the tests know the odd ones.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from channels_redis_fast import _pure

SPECIFIC = "specific.0123456789abcdef0123456789abcdef!0123456789abcdef0123456789abcdef"
FLAT = {"type": "chat.message", "text": "hello world", "n": 7, "user": "alice"}
NESTED = {"type": "chat.message", "payload": {"id": 7, "tags": ["a", "b"], "ok": True}, "user": "alice"}
GLOBS = {"http.request": 200, "http.response!*": 10, "websocket.[rs]*!*": 30}

ONE_PROCESS = [f"specific.{'ab' * 16}!{number:032x}".encode() for number in range(1000)]
HUNDRED_PROCESSES = [f"specific.{number % 100:032x}!{number:032x}".encode() for number in range(1000)]
NAMES = [[name.decode() for name in ONE_PROCESS[start : start + 100]] for start in range(0, 1000, 100)]

BODY = _pure.pack(FLAT)
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
    "decode": ("envelope", "decode", (_pure.encode(FLAT, SPECIFIC, 12), 12)),
    "decode-general": ("envelope", "decode", (_pure.encode(FLAT, None, 12), 12)),
    "decode-nested": ("envelope", "decode", (_pure.encode(NESTED, SPECIFIC, 12), 12)),
    "decode-group-of-100": ("envelope", "decode", (_pure.splice(BODY, NAMES[0]), 0)),
    "clone": ("envelope", "clone", (FLAT,)),
    "clone-nested": ("envelope", "clone", (NESTED,)),
    "next_prefix": ("envelope", "next_prefix", (12,)),
    "assemble-10": ("pipeline", "assemble", ([SEND] * 10,)),
}


def find(twin: str, module: str, name: str) -> Any:
    """The function of one twin; `lookup` is that of a table."""
    if twin == "compiled":
        owner = pytest.importorskip(f"channels_redis_fast._ext.{module}", reason="the compiled modules are not built")
    else:
        owner = import_module("channels_redis_fast._pure")
    return owner.CapacityTable(GLOBS, 100).lookup if name == "lookup" else getattr(owner, name)


@pytest.mark.parametrize("twin", ["compiled", "pure"])
@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.benchmark(group=case)) for case in CALLS])
def test_hot(benchmark: Any, case: str, twin: str) -> None:
    module, name, arguments = CALLS[case]
    benchmark(find(twin, module, name), *arguments)
