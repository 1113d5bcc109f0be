"""A picture as the page shows it: the largest entries, the totals, and the problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..survey.snapshot import Channel, Group, History, Picture, Shard, Subscription

#: Rows of a list. The page is for a quick look; ``inspect`` shows the rest.
ROWS = 40

#: The commands that list all names of the Pub/Sub layer. If they are refused, no list is cut short.
_NAMES = {"PUBSUB CHANNELS", "PUBSUB SHARDCHANNELS"}


def describe(picture: Picture, seconds: float) -> dict[str, Any]:
    """Return a picture for the page; ``seconds``: how long it took."""
    groups: Sequence[Group | Subscription] = picture.groups or picture.subscribed_groups
    return {
        "at": picture.at,
        "seconds": round(seconds, 3),
        "shards": [_shard(shard) for shard in picture.shards],
        "channels": {
            "total": len(picture.channels),
            "messages": sum(channel.depth for channel in picture.channels),
            "full": sum(channel.fill >= 1 for channel in picture.channels),
            "rows": [_channel(channel) for channel in picture.channels[:ROWS]],
        },
        "groups": {
            "total": len(groups),
            "members": sum(_members(group) or 0 for group in groups),
            "rows": [_group(group) for group in groups[:ROWS]],
        },
        "subscribed_channels": len(picture.subscribed_channels),
        "histories": {
            "total": len(picture.histories),
            "entries": sum(history.length or 0 for history in picture.histories),
            "bytes": sum(history.bytes or 0 for history in picture.histories),
            "rows": [_history(history) for history in picture.histories[:ROWS]],
        },
        "presences": {
            "total": len(picture.presences),
            "users": sum(presence.users or 0 for presence in picture.presences),
            "rows": [
                {"name": presence.group, "shard": presence.shard, "users": presence.users}
                for presence in picture.presences[:ROWS]
            ],
        },
        "leases": {
            "held": sum(leases.held for leases in picture.leases),
            "overdue": sum(leases.overdue for leases in picture.leases),
        },
        "notes": _notes(picture),
    }


def _shard(shard: Shard) -> dict[str, Any]:
    # The notes say what was refused.
    return {name: value for name, value in asdict(shard).items() if name not in {"refused", "complete"}}


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "name": channel.channel,
        "shard": channel.shard,
        "waiting": channel.depth - channel.expired,
        "capacity": channel.capacity,
        "fill": round(channel.fill, 4),
        "oldest": channel.oldest_seconds,
        "bytes": channel.bytes,
        "readable": channel.readable,
    }


def _members(group: Group | Subscription) -> int | None:
    return group.members - group.expired if isinstance(group, Group) else group.subscribers


def _group(group: Group | Subscription) -> dict[str, Any]:
    name = group.group if isinstance(group, Group) else group.name
    return {"name": name, "shard": group.shard, "members": _members(group)}


def _history(history: History) -> dict[str, Any]:
    return {
        "name": history.group,
        "shard": history.shard,
        "entries": history.length,
        "bytes": history.bytes,
        "oldest": history.oldest_seconds,
    }


def _notes(picture: Picture) -> list[dict[str, str]]:
    notes: list[dict[str, str]] = []

    def note(level: str, text: str) -> None:
        notes.append({"level": level, "text": text})

    for shard in picture.shards:
        where = f"Shard {shard.shard} ({shard.host})"
        if shard.error is not None:
            note("bad", f"{where}: {shard.error}")
            continue
        if shard.refused:
            note("warn", f"{where} refuses {', '.join(shard.refused)}; what these tell is not shown.")
        if not shard.complete and not _NAMES & set(shard.refused):
            of_all = "" if shard.keys is None else f" of {shard.keys:,}"
            seen = "some" if shard.keys_examined is None else f"{shard.keys_examined:,}{of_all} keys"
            note("info", f"{where}: cut short after {seen}; LIVE_MAX_KEYS looks at more.")
        if shard.nameless_receivers:
            note("info", f"{where}: {shard.nameless_receivers:,} connections look like those of channels_redis.")
    unreadable = sum(channel.readable is False for channel in picture.channels)
    if unreadable:
        note("bad", f"Channels whose oldest message cannot be read with these settings: {unreadable:,}.")
    for kind, count in sorted(Counter(leftover.kind for leftover in picture.leftovers).items()):
        note("info", f"Leftover keys, {kind}: {count:,}. The command inspect lists them.")
    return notes
