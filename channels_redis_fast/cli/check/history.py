"""
What the option ``history`` requires of a server and of its user, for layers that have it. Sends no commands itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...base import RedisLayer
from ...connection.link import Command
from ...core import RedisChannelLayer
from ...history.positions import history_key
from ...survey.server_facts import Facts
from ..texts import duration, size
from .findings import OK, PROBLEM, WARNING, Finding

#: The first version of Redis whose XRANGE accepts an exclusive start ID. Valkey began at 7.2.
OLDEST = (6, 2)

ITEM = "history"

#: How many patterns are listed by name.
EXAMPLES = 3


def stream_key(layer: RedisLayer, scratch: bytes) -> bytes:
    """Return the key of a stream that nobody else uses, in the slot of the scratch name."""
    return history_key(layer.prefix.encode(), scratch)


def history_commands(layer: RedisLayer, scratch: bytes) -> dict[str, Command]:
    """Return the commands that the layer sends only for histories, harmless on a scratch stream."""
    key = stream_key(layer, scratch)
    commands: dict[str, Command] = {
        "XADD": (b"XADD", key, b"MAXLEN", b"~", 1, b"*", b"h", b"check"),
        "XRANGE": (b"XRANGE", key, b"-", b"+", b"COUNT", 1),
        "XREVRANGE": (b"XREVRANGE", key, b"+", b"-", b"COUNT", 1),
        "XDEL": (b"XDEL", key, b"1-1"),
    }
    if isinstance(layer, RedisChannelLayer):
        return {**commands, "UNLINK": (b"UNLINK", scratch, key)}
    return {
        **commands,
        "TIME": (b"TIME",),
        "EXPIRE": (b"EXPIRE", key, 60),
        "EVALSHA": (b"EVALSHA", b"0" * 40, 1, key),
        "EVAL": (b"EVAL", b"return 1", 1, key),
        "SCAN": (b"SCAN", b"0", b"MATCH", key, b"COUNT", 1),
        "UNLINK": (b"UNLINK", key),
    }


def check_history(layer: RedisLayer, facts: Facts) -> Iterator[Finding]:
    """Report whether a server can keep histories and prove that they are complete, and how much it keeps of each."""
    retentions = {} if layer._histories is None else layer._histories.retentions
    if not retentions:
        return
    if facts.server == "redis" and facts.version is not None and _number(facts.version) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        text = f"redis {facts.version} cannot read from a position: group_history and group_resume fail"
        yield Finding(PROBLEM, ITEM, text, f"Use Redis {needed} or newer, or any Valkey.")
        return
    kept = [
        f"{pattern!r}: {kept.size:,} messages, at most {size(kept.max_bytes)} a group, for {duration(kept.ttl)}"
        for pattern, kept in retentions.items()
    ]
    more = f"; and {len(kept) - EXAMPLES} more patterns" if len(kept) > EXAMPLES else ""
    yield Finding(OK, ITEM, "; ".join(kept[:EXAMPLES]) + more)
    if not facts.info.get("run_id"):
        yield Finding(
            WARNING,
            ITEM,
            "the server does not report its run id, which shows restarts and failovers: histories work, but "
            "`complete` is never True",
            "If an ACL forbids INFO: ACL SETUSER USER +info.",
        )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
