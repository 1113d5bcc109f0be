"""Changes of an input that leave it nearly a message: values are replaced, nested, repeated, and only then bytes.

It knows msgpack and where the prefix of a fuzzed member is; not who asks.
"""

from __future__ import annotations

import random
from typing import Any

import msgpack

# Targets whose input is a message, so that a changed message is a better input than changed bytes.
MESSAGES = ("decode",)
FIELD = "__asgi_channel__"
INTERESTING = (
    None,
    True,
    0,
    -1,
    127,
    128,
    -32,
    -33,
    2**31,
    2**32,
    2**63 - 1,
    2**64 - 1,
    -(2**63),
    1.5,
    float("nan"),
    "",
    "x" * 31,
    "x" * 32,
    "x" * 256,
    "h\xe9llo \u20ac \U0001f600",
    b"",
    b"\xff" * 300,
    [],
    {},
    [[]],
    list(range(16)),
    [0] * 257,
    {"type": "chat.message"},
    {b"raw": 1},
    msgpack.ExtType(5, b"data"),
    msgpack.Timestamp(1, 2),
    ["specific.a!b", "specific.a!c"],
    "specific.a!b",
)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return an input like this one: its first byte is the length of a prefix, then comes a member of that sort."""
    length = data[0] % 32 if data else 0
    head, body = data[: 1 + length].ljust(1 + length, b"\0"), data[1 + length :]
    try:
        message = msgpack.unpackb(body, strict_map_key=False)
        body = msgpack.packb(changed(message, chance), unicode_errors="surrogatepass")
    except Exception:
        return head + scratched(body, chance)
    # A sound message in three of four cases: a decoder that refuses early shows little of itself.
    return head + (scratched(body, chance) if chance.random() < 0.25 else body)


def changed(value: Any, chance: random.Random) -> Any:
    """A value with one change somewhere in it."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return {**value, key: changed(value[key], chance)} if chance.random() < 0.6 else entries(value, key, chance)
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], changed(value[place], chance), *value[place + 1 :]]
    if isinstance(value, list) and chance.random() < 0.3:
        return value * chance.choice((2, 16, 257))
    if isinstance(value, str | bytes) and value and chance.random() < 0.3:
        return value * chance.choice((2, 32, 256))
    if chance.random() < 0.2:
        return nested(value, chance)
    return chance.choice(INTERESTING)


def entries(value: dict[Any, Any], key: Any, chance: random.Random) -> dict[Any, Any]:
    """A dict with an entry more, less or under another name."""
    kind = chance.randrange(4)
    rest = {name: item for name, item in value.items() if name != key}
    if kind == 0:
        return rest
    if kind == 1:
        return {**value, **{f"k{number}": number for number in range(chance.choice((1, 16, 70)))}}
    if kind == 2:
        return {**rest, FIELD: chance.choice(INTERESTING)}
    return {**rest, chance.choice(("type", "", b"type", 1, "k" * 32, "cl\xe9")): value[key]}


def nested(value: Any, chance: random.Random) -> Any:
    """The value deep in containers: up to and beyond what is unpacked without msgpack."""
    for _ in range(chance.choice((1, 29, 30, 31, 32, 33, 100, 520))):
        value = {"k": value} if chance.random() < 0.5 else [value]
    return value


def scratched(data: bytes, chance: random.Random) -> bytes:
    """Bytes with some of them changed, cut out or put in."""
    scratched = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(scratched) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            scratched[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del scratched[place : place + chance.choice((1, 1, 8, 1000))]
        elif kind == 2:
            scratched[place:place] = bytes([chance.choice(range(0x80, 0xE0))])
        elif place:
            scratched[place - 1] ^= 1 << chance.randrange(8)
    return bytes(scratched)
