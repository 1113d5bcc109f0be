"""
Whether the server carries out the commands that a layer needs, for this user and this prefix.

Uses ACL DRYRUN, which has no effect, if the server has it and the user may use it. Otherwise it tries each command on a
scratch key of its own, which is removed at the end and expires if that fails. The text of a refusal tells what the user
may not use: the command, the key or the channel.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import RedisError

from ...base import RedisLayer
from ...connection.hosts import HostOptions
from ...connection.link import Command
from ...core import RedisChannelLayer
from ...pubsub import RedisPubSubChannelLayer
from ...subscriptions.dialect import PLAIN, SHARDED, Dialect
from ...survey.line import Line, NodeLine
from ...survey.server_facts import is_refusal
from .findings import OK, PROBLEM, WARNING, Finding
from .history import history_commands, stream_key
from .leases import OPTIONAL as _OPTIONAL_WITH_LEASES
from .leases import lease_commands
from .presence import presence_commands, presence_key

#: Seconds after which a scratch key expires.
SCRATCH_LIFE = 60

#: The hash of a script that no server knows. If scripts are allowed, the server answers that it does not know it.
NO_SCRIPT = b"0" * 40

#: Commands that a layer can work without, and what is lost then.
_OPTIONAL = {
    "EVALSHA": "sends take two round trips, and a channel can exceed its capacity between them",
    "EVAL": "sends take two round trips, and a channel can exceed its capacity between them",
    "SCAN": "flush() fails",
    "UNLINK": "flush() fails",
    "CLIENT SETNAME": "connections have no name in CLIENT LIST",
    "ASKING": "sends to a slot fail while it moves to another server",
}

#: What differs for a layer with ``history``, which needs scripts.
_OPTIONAL_WITH_HISTORY = {
    "EVALSHA": "scripts are sent as text every time",
    "UNLINK": "flush() and group_forget() fail",
}

#: After one of these commands, a connection can do nothing else. They come last among a layer's commands.
_LISTENING = ("SUBSCRIBE", "UNSUBSCRIBE", "SSUBSCRIBE", "SUNSUBSCRIBE")


def core_commands(key: bytes) -> dict[str, Command]:
    """Return all commands of the core layer, harmless on a scratch key, in an order in which none of them waits."""
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
        # If ZADD is refused, there is nothing to pop, and BZPOPMIN waits. So its timeout is short.
        "BZPOPMIN": (b"BZPOPMIN", key, b"0.01"),
        "EVALSHA": (b"EVALSHA", NO_SCRIPT, 1, key),
        "EVAL": (b"EVAL", b"return 1", 1, key),
        "CLIENT SETNAME": (b"CLIENT", b"SETNAME", b"channels_redis_fast:core:check"),
        "SCAN": (b"SCAN", b"0", b"MATCH", key, b"COUNT", 1),
        "UNLINK": (b"UNLINK", key),
    }


def pubsub_commands(channel: bytes, words: Dialect) -> dict[str, Command]:
    """Return all commands of the Pub/Sub layer, on a channel that nobody else knows."""
    return {
        "PING": (b"PING",),
        words.publish.decode(): (words.publish, channel, b""),
        "CLIENT SETNAME": (b"CLIENT", b"SETNAME", b"channels_redis_fast:pubsub:check"),
        words.subscribe.decode(): (words.subscribe, channel),
        words.unsubscribe.decode(): (words.unsubscribe, channel),
    }


def cluster_commands(key: bytes) -> dict[str, Command]:
    """Return the core layer's commands on a cluster: it looks when a key is announced, instead of waiting."""
    commands = core_commands(key)
    del commands["BZPOPMIN"]
    return {
        **_of_any_cluster(),
        **commands,
        "ZPOPMIN": (b"ZPOPMIN", key),
        "SPUBLISH": (b"SPUBLISH", key, b""),
        "SSUBSCRIBE": (b"SSUBSCRIBE", key),
        "SUNSUBSCRIBE": (b"SUNSUBSCRIBE", key),
    }


def _of_any_cluster() -> dict[str, Command]:
    return {"CLUSTER SLOTS": (b"CLUSTER", b"SLOTS"), "ASKING": (b"ASKING",)}


def commands_of(layer: RedisLayer, line: Line, scratch: bytes) -> dict[str, Command]:
    """Return all commands that a layer sends to the server of a line, on a scratch key or channel."""
    on_cluster = isinstance(line, NodeLine)
    more = {} if layer._leases is None else lease_commands(scratch)
    if layer._presences is not None:
        more |= presence_commands(layer, scratch)
    if layer._histories is not None:
        more |= history_commands(layer, scratch)
    if isinstance(layer, RedisPubSubChannelLayer):
        commands = {**more, **pubsub_commands(scratch, SHARDED if layer.sharded else PLAIN)}
        return {**_of_any_cluster(), **commands} if on_cluster else commands
    commands = cluster_commands(scratch) if on_cluster else core_commands(scratch)
    # UNLINK stays last.
    return {**{name: command for name, command in commands.items() if name not in more}, **more}


def scratch_name(line: Line, prefix: str, is_core: bool) -> bytes:
    """Return a name that nobody else uses; on a cluster, one that belongs to this server."""
    between = ":" if is_core else "__"
    unique = f"{prefix}{between}check{between}{uuid.uuid4().hex}"
    return next(name for number in itertools.count() if line.has(name := f"{unique}{number:x}".encode()))


async def check_permissions(line: Line, layer: RedisLayer) -> list[Finding]:
    """
    Report which of the commands that the layer needs are refused to the user in the settings.

    Raises ``redis.exceptions.ConnectionError`` naming the host.
    """
    is_core = isinstance(layer, RedisChannelLayer)
    scratch = scratch_name(line, layer.prefix, is_core)
    commands = commands_of(layer, line, scratch)
    (user,) = await line.ask((b"ACL", b"WHOAMI"))
    name = user.decode("utf-8", "replace") if isinstance(user, bytes) else None
    way = "asked with ACL DRYRUN"
    replies = None if name is None else await _dry_run(line, name, commands)
    if replies is None:
        way = "each tried on a scratch key" if is_core else "each tried on a channel of its own"
        cleaning: list[Command] = []
        if is_core or layer._leases is not None:
            cleaning.append((b"ZREMRANGEBYSCORE", scratch, b"-inf", b"+inf"))
        if layer._presences is not None:
            cleaning.append((b"EXPIRE", presence_key(layer, scratch), SCRATCH_LIFE))
        if layer._histories is not None:
            cleaning.append((b"EXPIRE", stream_key(layer, scratch), SCRATCH_LIFE))
        replies = await _try(line, commands, cleaning)
    refused = {command: str(reply) for command, reply in zip(commands, replies, strict=True) if _is_no(reply)}
    optional = dict(_OPTIONAL)
    for feature, differs in ((layer._leases, _OPTIONAL_WITH_LEASES), (layer._histories, _OPTIONAL_WITH_HISTORY)):
        if feature is not None:
            optional.pop("EVAL", None)
            optional |= differs
    return list(_say(refused, optional, len(commands), way, name or _user(line.host), layer.prefix))


async def _dry_run(line: Line, user: str, commands: dict[str, Command]) -> Sequence[Any] | None:
    """Return an error or a sentence for each command that is refused; None if the server cannot be asked."""
    replies = await line.ask(*((b"ACL", b"DRYRUN", user, *command) for command in commands.values()))
    if any(isinstance(reply, Exception) and "not found" not in str(reply).lower() for reply in replies):
        return None
    return [reply if isinstance(reply, Exception) or reply == b"OK" else _Refused(reply) for reply in replies]


class _Refused(Exception):
    """The answer of ACL DRYRUN for a command that would be refused."""

    def __init__(self, reply: Any) -> None:
        super().__init__(f"NOPERM {reply.decode('utf-8', 'replace') if isinstance(reply, bytes) else reply}")


async def _try(line: Line, commands: dict[str, Command], cleaning: Sequence[Command]) -> Sequence[Any]:
    listening = [command for name, command in commands.items() if name in _LISTENING]
    try:
        replies = await line.ask(*(command for name, command in commands.items() if name not in _LISTENING))
    finally:
        # Also when interrupted. UNLINK may be the refused command.
        with contextlib.suppress(RedisError):
            await line.ask(*cleaning)
    return [*replies, *await line.ask(*listening)]


def _user(host: HostOptions) -> str:
    return str(urlsplit(host.get("address", "")).username or host.get("username") or "USER")


def _is_no(reply: Any) -> bool:
    return isinstance(reply, _Refused) or is_refusal(reply) is not None or "not found" in _text(reply)


def _text(reply: Any) -> str:
    return str(reply).lower() if isinstance(reply, Exception) else ""


def _say(
    refused: dict[str, str], optional: dict[str, str], count: int, way: str, user: str, prefix: str
) -> Iterator[Finding]:
    item = "commands"
    missing = [command for command, text in refused.items() if not text.startswith("NOPERM")]
    needed = [command for command in missing if command not in optional]
    if needed:
        yield Finding(
            PROBLEM,
            item,
            f"the server has no {', '.join(needed)}",
            "Use Redis 5.0 or newer (6.2 for histories, 7.0 for sharded Pub/Sub), without rename-command.",
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
    needed = [command for command in forbidden if command not in optional]
    if needed:
        yield Finding(PROBLEM, item, f"the user may not use {', '.join(needed)}", _grant(user, needed))
    spared = [command for command in refused if command in optional and (command in missing or command in forbidden)]
    for loss in dict.fromkeys(optional[command] for command in spared):
        some = [command for command in spared if optional[command] == loss]
        fix = _grant(user, some) if any(command in forbidden for command in some) else "This server does not have it."
        yield Finding(WARNING, item, f"without {', '.join(some)}: {loss}", fix)
    if not refused:
        yield Finding(OK, item, f"all {count} that the layer needs are allowed ({way})")


def _is_about(text: str, what: str) -> bool:
    lower = text.lower()
    return "to access" in lower and (f" {what}" in lower.split("to access", 1)[1])


def _grant(user: str, commands: Sequence[str]) -> str:
    rules = " ".join(f"+{command.lower().replace(' ', '|')}" for command in commands)
    return f"ACL SETUSER {user} {rules}"
