"""What the option ``lease`` asks of a server's user, for layers that have it. Asks nothing itself."""

from __future__ import annotations

from ...connection.link import Command

#: What a layer with leases lives without in another way than others.
OPTIONAL = {"EVALSHA": "scripts are sent as text every time"}


def lease_commands(scratch: bytes) -> dict[str, Command]:
    """Return what a layer does for leases, harmless on a scratch key."""
    return {
        "TIME": (b"TIME",),
        "ZADD": (b"ZADD", scratch, 1, b"check"),
        "EXPIRE": (b"EXPIRE", scratch, 60),
        "ZSCORE": (b"ZSCORE", scratch, b"check"),
        "ZCOUNT": (b"ZCOUNT", scratch, b"-inf", b"+inf"),
        "ZRANGEBYSCORE": (b"ZRANGEBYSCORE", scratch, b"-inf", b"+inf"),
        "ZREMRANGEBYSCORE": (b"ZREMRANGEBYSCORE", scratch, 0, 0),
        "EVALSHA": (b"EVALSHA", b"0" * 40, 1, scratch),
        "EVAL": (b"EVAL", b"return 1", 1, scratch),
    }
