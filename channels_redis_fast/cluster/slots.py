"""
The slots of a Redis Cluster: which slot a name is in, how to name a key so that it is in the same slot as another, and
how to read the reply of CLUSTER SLOTS. No I/O.

Rules: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count
from typing import Any

#: Number of slots of every cluster.
SLOTS = 16384

Address = tuple[str, int]

#: What a cluster reports for an address that it does not know. This is taken to be that of the server that was asked.
_UNKNOWN = ("", "?")


def slot_of(name: bytes) -> int:
    """Return the slot of a key or of a sharded channel: CRC-16 of the name, or of the text inside its first braces."""
    start = name.find(b"{") + 1
    if start:
        end = name.find(b"}", start)
        if end > start:
            name = name[start:end]
    return crc_hqx(name, 0) & 0x3FFF


def key_beside(start: bytes, key: bytes) -> bytes:
    """
    Return a key that begins with ``start``, contains the name of another key, and is in the slot of that key.

    The other key follows unchanged if it has a hash tag, otherwise in braces. If neither form leads to its slot, it
    follows a number in braces. If ``start`` has a hash tag of its own, all keys made from it are in one slot; that is
    the slot of the other keys too, unless these are named in some other way.
    """
    in_braces = start + b"{" + key + b"}"
    if key and b"{" not in key and b"}" not in key and b"{" not in start:
        # Nearly all keys are of this form.
        return in_braces
    slot = slot_of(key)
    for candidate in (start + key, in_braces) if b"{" in key else (in_braces,):
        if slot_of(candidate) == slot:
            return candidate
    if slot_of(start + b"0") == slot_of(start + b"1"):
        return in_braces
    if b"{" not in start:
        return b"%b{%d}%b" % (start, _number_in(slot), key)
    numbered = (b"%b{%d}%b" % (start, number, key) for number in count())
    return next(name for name in numbered if slot_of(name) == slot)


def key_behind(start: bytes, name: bytes) -> bytes | None:
    """Return the key for which ``key_beside`` returns a name; None for a name that it never returns."""
    if not name.startswith(start):
        return None
    rest = name[len(start) :]
    candidates = [rest, re.sub(rb"^\{\d+\}", b"", rest)]
    if rest[:1] == b"{" and rest[-1:] == b"}":
        candidates.insert(0, rest[1:-1])
    return next((found for found in candidates if key_beside(start, found) == name), None)


@lru_cache(SLOTS)
def _number_in(slot: int) -> int:
    """Return the smallest number whose decimal text is in a slot."""
    return next(number for number in count() if slot_of(b"%d" % number) == slot)


def owners_of(
    reply: Any, asked: str, remap: Callable[[Address], Address] | None = None
) -> Iterator[tuple[int, int, Address]]:
    """
    Yield the first slot, the last slot and the primary's address of each range in a reply of CLUSTER SLOTS.

    ``asked``: the host that answered. ``remap``: redis-py's ``address_remap``.
    """
    for first, last, primary, *_ in reply:
        host = (primary[0] or b"").decode()
        address = (asked if host in _UNKNOWN else host, int(primary[1]))
        yield int(first), int(last), address if remap is None else remap(address)
