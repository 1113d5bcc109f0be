"""
Slots of a Redis Cluster: which one a name is in, and how the reply of CLUSTER SLOTS reads. No I/O.

Rules: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Iterator
from typing import Any

#: Slots of every cluster.
SLOTS = 16384

Address = tuple[str, int]

#: What a cluster calls a server whose address it does not know: the one that was asked, as far as is known.
_UNKNOWN = ("", "?")


def slot_of(name: bytes) -> int:
    """Return the slot of a key or of a sharded channel: CRC-16 of the name, or of what its first braces enclose."""
    start = name.find(b"{") + 1
    if start:
        end = name.find(b"}", start)
        if end > start:
            name = name[start:end]
    return crc_hqx(name, 0) & 0x3FFF


def owners_of(
    reply: Any, asked: str, remap: Callable[[Address], Address] | None = None
) -> Iterator[tuple[int, int, Address]]:
    """
    Yield first slot, last slot and the primary's address of each range in a reply of CLUSTER SLOTS.

    ``asked``: the host that answered. ``remap``: redis-py's ``address_remap``.
    """
    for first, last, primary, *_ in reply:
        host = (primary[0] or b"").decode()
        address = (asked if host in _UNKNOWN else host, int(primary[1]))
        yield int(first), int(last), address if remap is None else remap(address)
