"""What calls are given: messages, members and names, sound and hostile. Nobody changes any of them."""

from __future__ import annotations

import re
from typing import Any

import msgpack

FIELD = "__asgi_channel__"
MESSAGE: dict[str, Any] = {
    "type": "chat.message",
    "text": "h\xe9llo \u20ac " * 9,
    "n": [0, -1, 200, -200, 70_000, -70_000, 2**40, -(2**40), 2**63, (1.5, -0.0)],
    "more": {"b": b"\0" * 300, "none": None, b"raw": [True, False], "deep": [[[{"k": ["v"]}]]]},
    "a key with more than thirty-one bytes": list(range(300)),
}
BODY: bytes = msgpack.packb(MESSAGE)
ONE = "specific.abc!def"
SEVERAL = ["specific.abc!def", "specific.abc!gh\xef"]
PREFIX = b"p" * 12
MEMBERS = {
    "one": PREFIX + msgpack.packb({**MESSAGE, FIELD: ONE}),
    "several": PREFIX + msgpack.packb({**MESSAGE, FIELD: SEVERAL}),
    "none": PREFIX + BODY,
}
HOSTILE = {
    "not msgpack": PREFIX + b"\xc1",
    "cut off": MEMBERS["one"][:-3],
    "goes on": MEMBERS["one"] + b"\0",
    "no map": PREFIX + msgpack.packb([1]),
    "no address": PREFIX + msgpack.packb({"a": [1], FIELD: [b"a"]}),
    "empty address": PREFIX + msgpack.packb({"a": [1], FIELD: []}),
    "key": PREFIX + b"\x81\x01\xc0",
    "text": PREFIX + b"\x82\xa1a\xd9\x28" + b"x" * 40 + b"\xa1k\xa2\xff\xfe",
    "promise": PREFIX + b"\x81\xa1k\xdd\xff\xff\xff\xff" + b"\xa3abc" * 9,
    "deep": PREFIX + b"\x81\xa1k" + b"\x91" * 40 + b"\xa3abc",
    "extension": PREFIX + b"\x81\xa1k" + msgpack.packb(msgpack.ExtType(5, b"data")),
}
ODD = {"a": "x" * 3000, "v": {1, 2}}
LARGE = {"text": "x" * 300_000, "n": list(range(5000))}
LARGE_BODY: bytes = msgpack.packb(LARGE)


def nested(levels: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


DEEP = {"v": nested(600)}
MANY = {f"number{number}!": [number] for number in range(20)}
GROUP = [b"specific.%d!%d" % (number // 4, number) for number in range(40)]
TABLE = [("a*b?c", 1), ("[a-c]x*", 2), ("[]]", 3), ("\xe9*", 4), (re.compile("z+"), 5), ("specific.*", 6)]
