"""What the option ``lease`` requires of a server's user, for layers that have it. Sends no commands itself."""

from __future__ import annotations

from ...connection.link import Command

#: Commands that a layer with leases can work without, and what happens then, where that differs from other layers.
OPTIONAL = {"EVALSHA": "scripts are sent as text every time"}


def lease_commands(scratch: bytes) -> dict[str, Command]:
    """Return the commands that a layer sends for leases, harmless on a scratch key."""
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
