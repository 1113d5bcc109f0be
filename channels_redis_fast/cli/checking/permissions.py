"""
Whether the server carries out the commands that a layer needs, for this user and this prefix.

Asks with ACL DRYRUN, which does nothing, where the server has it and the user may use it; else tries each command on a
scratch key of its own, which is removed at the end and goes away by itself should that fail. A refusal is told apart by
its text: the command, the key or the channel is what the user may not touch.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from ...connection import Command
from ...hosts import HostOptions
from ..line import Line
from ..server_facts import is_refusal
from .findings import OK, PROBLEM, WARNING, Finding

#: Seconds after which a scratch key goes away by itself.
SCRATCH_LIFE = 60

#: A script that no server knows: where scripts may be called, the answer is that.
NO_SCRIPT = b"0" * 40

#: Commands that a layer lives without, and what it then lives without.
_OPTIONAL = {
    "EVALSHA": "sends take two round trips of plain commands, and between these a channel may come over its capacity",
    "EVAL": "sends take two round trips of plain commands, and between these a channel may come over its capacity",
    "SCAN": "flush() fails",
    "UNLINK": "flush() fails",
    "CLIENT SETNAME": "its connections have no name in CLIENT LIST",
}


def core_commands(key: bytes) -> dict[str, Command]:
    """Return all that the core layer does, harmless on a scratch key, in an order in which nothing waits."""
    return {
        "PING": (b"PING",),
        "TIME": (b"TIME",),
        "ZADD": (b"ZADD", key, 1, b"check"),
        "EXPIRE": (b"EXPIRE", key, SCRATCH_LIFE),
        "ZCARD": (b"ZCARD", key),
        "ZCOUNT": (b"ZCOUNT", key, b"-inf", b"+inf"),
        "ZRANGE": (b"ZRANGE", key, 0, 0),
        "ZREVRANGE": (b"ZREVRANGE", key, 0, 0),
        "ZREMRANGEBYSCORE": (b"ZREMRANGEBYSCORE", key, 0, 0),
        "ZREM": (b"ZREM", key, b"another"),
        # Should ZADD be refused there is nothing to pop: then it waits, which is why it does not wait for long.
        "BZPOPMIN": (b"BZPOPMIN", key, b"0.01"),
        "EVALSHA": (b"EVALSHA", NO_SCRIPT, 1, key),
        "EVAL": (b"EVAL", b"return 1", 1, key),
        "CLIENT SETNAME": (b"CLIENT", b"SETNAME", b"channels_redis_fast:core:check"),
        "SCAN": (b"SCAN", b"0", b"MATCH", key, b"COUNT", 1),
        "UNLINK": (b"UNLINK", key),
    }


def pubsub_commands(channel: bytes) -> dict[str, Command]:
    """Return all that the Pub/Sub layer does, on a channel that nobody else knows."""
    return {
        "PING": (b"PING",),
        "PUBLISH": (b"PUBLISH", channel, b""),
        "CLIENT SETNAME": (b"CLIENT", b"SETNAME", b"channels_redis_fast:pubsub:check"),
        "SUBSCRIBE": (b"SUBSCRIBE", channel),
        "UNSUBSCRIBE": (b"UNSUBSCRIBE", channel),
    }


async def check_permissions(line: Line, host: HostOptions, prefix: str, is_core: bool) -> list[Finding]:
    """
    Say which of the commands that the layer needs are refused to the user that ``host`` names.

    Raises ``redis.exceptions.ConnectionError`` naming the host.
    """
    scratch = f"{prefix}{':' if is_core else '__'}check{':' if is_core else '__'}{uuid.uuid4().hex}".encode()
    commands = core_commands(scratch) if is_core else pubsub_commands(scratch)
    (user,) = await line.ask((b"ACL", b"WHOAMI"))
    name = user.decode("utf-8", "replace") if isinstance(user, bytes) else None
    way = "asked with ACL DRYRUN"
    replies = None if name is None else await _dry_run(line, name, commands)
    if replies is None:
        way = "each tried on a scratch key" if is_core else "each tried on a channel of its own"
        replies = await _try(line, commands, scratch if is_core else None)
    refused = {command: str(reply) for command, reply in zip(commands, replies, strict=True) if _is_no(reply)}
    return list(_say(refused, len(commands), way, name or _user(host), prefix))


async def _dry_run(line: Line, user: str, commands: dict[str, Command]) -> Sequence[Any] | None:
    """Return an error or a sentence for each command that is refused; None where that cannot be asked."""
    replies = await line.ask(*((b"ACL", b"DRYRUN", user, *command) for command in commands.values()))
    if any(isinstance(reply, Exception) and "not found" not in str(reply).lower() for reply in replies):
        return None
    return [reply if isinstance(reply, Exception) or reply == b"OK" else _Refused(reply) for reply in replies]


class _Refused(Exception):
    """What ACL DRYRUN says of a command that would be refused."""

    def __init__(self, reply: Any) -> None:
        super().__init__(f"NOPERM {reply.decode('utf-8', 'replace') if isinstance(reply, bytes) else reply}")


async def _try(line: Line, commands: dict[str, Command], key: bytes | None) -> Sequence[Any]:
    try:
        return await line.ask(*commands.values())
    finally:
        if key is not None:
            # Also when interrupted; UNLINK may be what is refused.
            with contextlib.suppress(RedisError):
                await line.ask((b"ZREMRANGEBYSCORE", key, b"-inf", b"+inf"))


def _user(host: HostOptions) -> str:
    return str(urlsplit(host.get("address", "")).username or host.get("username") or "USER")


def _is_no(reply: Any) -> bool:
    return isinstance(reply, _Refused) or is_refusal(reply) is not None or "not found" in _text(reply)


def _text(reply: Any) -> str:
    return str(reply).lower() if isinstance(reply, Exception) else ""


def _say(refused: dict[str, str], count: int, way: str, user: str, prefix: str) -> Iterator[Finding]:
    item = "commands"
    missing = [command for command, text in refused.items() if not text.startswith("NOPERM")]
    needed = [command for command in missing if command not in _OPTIONAL]
    if needed:
        yield Finding(
            PROBLEM,
            item,
            f"the server has no {', '.join(needed)}",
            "Redis 5.0 or newer; no rename-command.",
        )
    forbidden = {command: text for command, text in refused.items() if command not in missing}
    for what, rule in (("key", f"~{prefix}*"), ("channel", f"&{prefix}*")):
        touched = [command for command, text in forbidden.items() if _is_about(text, what)]
        if touched:
            yield Finding(
                PROBLEM,
                item,
                f"the user may not touch {what}s that begin with {prefix!r} ({', '.join(touched)})",
                f"ACL SETUSER {user} {rule}, or another prefix.",
            )
            forbidden = {command: text for command, text in forbidden.items() if command not in touched}
    needed = [command for command in forbidden if command not in _OPTIONAL]
    if needed:
        yield Finding(PROBLEM, item, f"the user may not use {', '.join(needed)}", _grant(user, needed))
    spared = [command for command in refused if command in _OPTIONAL and (command in missing or command in forbidden)]
    for loss in dict.fromkeys(_OPTIONAL[command] for command in spared):
        some = [command for command in spared if _OPTIONAL[command] == loss]
        mend = _grant(user, some) if any(command in forbidden for command in some) else "None, on this server."
        yield Finding(WARNING, item, f"without {', '.join(some)}: {loss}", mend)
    if not refused:
        yield Finding(OK, item, f"all {count} that the layer needs ({way})")


def _is_about(text: str, what: str) -> bool:
    lower = text.lower()
    return "to access" in lower and (f" {what}" in lower.split("to access", 1)[1])


def _grant(user: str, commands: Sequence[str]) -> str:
    rules = " ".join(f"+{command.lower().replace(' ', '|')}" for command in commands)
    return f"ACL SETUSER {user} {rules}"
