"""What ``inspect`` shows on a terminal: a ``Picture`` as tables, the fullest first. Asks nothing and knows no Redis."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group as Stack
from rich.console import JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from ...survey.snapshot import Channel, History, Leases, Leftover, Picture, Presence, Shard
from ..texts import counted, duration, known, size

#: From where on a channel is coloured.
WARM, FULL = 0.75, 1.0

#: What lists all names of the Pub/Sub layer: where it is refused, no list is cut short.
_NAMES = {"PUBSUB CHANNELS", "PUBSUB SHARDCHANNELS"}

_LEFTOVERS = {
    "inflight": "backup queue of channels_redis; safe to delete when no process runs it any more",
    "no expiry": "will never go away by itself; nothing of this package writes such a key",
    "not a hash": "a key of another program in the place of a group's presence: whoever joins it gets an error",
    "not a stream": "a key of another program in the place of a history: whoever sends to that group gets an error",
    "not a sorted set": "a key of another program, or of an old channels_redis: messages for this name fail",
    "foreign": "no name of this layer: does another layer's prefix begin with this one? `flush` removes its keys too",
}


def render(picture: Picture, top: int) -> RenderableType:
    """Return all of a picture, with at most ``top`` rows in each table."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(picture.at))
    kind = "Core layer" if picture.layer == "core" else "Pub/Sub layer"
    parts: list[RenderableType] = [
        Text(f"{kind} of {picture.deployment}, prefix {picture.prefix!r}, {when}", style="bold"),
        _shards(picture.shards),
    ]
    if all(shard.error is not None for shard in picture.shards):
        return Stack(*parts, *_notes(picture))
    if picture.layer == "core":
        parts += _channels(picture, top) + _groups(picture, top)
    else:
        parts += _subscriptions(picture, top)
    parts += _histories(picture.histories, top) + _presences(picture.presences, top)
    parts += _leases(picture.leases) + _leftovers(picture.leftovers, top)
    return Stack(*parts, *_notes(picture))


def _table(title: str | None, *columns: str) -> Table:
    """Make a table. A column whose name ends with ``>`` holds numbers, one that ends with ``~`` may be wrapped."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        is_long = name.endswith("~")
        justify: JustifyMethod = "right" if name.endswith(">") else "left"
        table.add_column(name.rstrip(">~"), justify=justify, overflow="fold", no_wrap=not is_long)
    return table


def _shards(shards: Sequence[Shard]) -> Table:
    is_cluster = any(shard.slots is not None for shard in shards)
    title, slots = ("\nPrimaries of the cluster", ["slots>"]) if is_cluster else ("\nShards", [])
    columns = ("server", "role", *slots, "memory>", "limit>", "ops/s>", "clients>", "our connections~")
    table = _table(title, "shard>", "host", *columns)
    for shard in shards:
        if shard.error is not None:
            table.add_row(str(shard.shard), Text(shard.host), Text("not reachable", style="red"))
            continue
        ours = shard.connections
        shown = "?" if ours is None else ", ".join(f"{name} {count}" for name, count in ours.items()) or "none"
        table.add_row(
            str(shard.shard),
            Text(shard.host),
            f"{shard.server or '?'} {shard.version or ''}".strip(),
            shard.role or "?",
            *([known(shard.slots)] if is_cluster else []),
            size(shard.memory),
            "none" if shard.max_memory == 0 else size(shard.max_memory),
            known(shard.operations_per_second),
            known(shard.clients),
            Text(shown),
        )
    return table


def _channels(picture: Picture, top: int) -> list[RenderableType]:
    channels = picture.channels
    if not channels:
        return [Text("\nChannels: no messages wait.", style="bold")]
    messages = sum(channel.depth for channel in channels)
    full = sum(channel.fill >= FULL for channel in channels)
    table = _table(
        f"\nChannels: {counted(len(channels), 'key')} with {counted(messages, 'message')}, {full} full",
        "channel~",
        "shard>",
        "waiting>",
        "expired>",
        "capacity>",
        "full>",
        "oldest>",
        "bytes>",
        "",
    )
    for channel in channels[:top]:
        style = "red" if channel.fill >= FULL else "yellow" if channel.fill >= WARM else ""
        table.add_row(
            Text(channel.channel),
            str(channel.shard),
            f"{channel.depth:,}",
            str(channel.expired or "-"),
            f"{channel.capacity:,}",
            Text(f"{channel.fill:.0%}", style=style),
            duration(channel.oldest_seconds),
            size(channel.bytes),
            _remark(channel),
        )
    return [table, *_more(len(channels) - top, "less full")]


def _remark(channel: Channel) -> Text:
    return Text("oldest cannot be read with these settings", style="red") if channel.readable is False else Text("")


def _groups(picture: Picture, top: int) -> list[RenderableType]:
    groups = picture.groups
    if not groups:
        return [Text("\nGroups: none.", style="bold")]
    members = sum(group.members for group in groups)
    table = _table(
        f"\nGroups: {len(groups):,} with {counted(members, 'member')}",
        "group~",
        "shard>",
        "members>",
        "past group_expiry>",
        "bytes>",
        "forgotten in>",
    )
    for group in groups[:top]:
        table.add_row(
            Text(group.group),
            str(group.shard),
            f"{group.members:,}",
            str(group.expired or "-"),
            size(group.bytes),
            duration(group.expires_in_seconds),
        )
    return [table, *_more(len(groups) - top, "smaller")]


def _histories(histories: Sequence[History], top: int) -> list[RenderableType]:
    if not histories:
        return []
    entries = sum(history.length or 0 for history in histories)
    table = _table(
        f"\nHistories: {len(histories):,} with {entries:,} entries",
        "group~",
        "shard>",
        "entries>",
        "bytes>",
        "oldest>",
        "expires in>",
    )
    for history in histories[:top]:
        table.add_row(
            Text(history.group),
            str(history.shard),
            known(history.length),
            size(history.bytes),
            duration(history.oldest_seconds),
            duration(history.expires_in_seconds),
        )
    return [table, *_more(len(histories) - top, "smaller")]


def _presences(presences: Sequence[Presence], top: int) -> list[RenderableType]:
    if not presences:
        return []
    users = sum(presence.users or 0 for presence in presences)
    title = f"\nPresence: {counted(users, 'user')} in {counted(len(presences), 'group')}"
    table = _table(title, "group~", "shard>", "users>", "processes>", "bytes>", "expires in>")
    for presence in presences[:top]:
        table.add_row(
            Text(presence.group),
            str(presence.shard),
            known(presence.users),
            known(presence.processes),
            size(presence.bytes),
            duration(presence.expires_in_seconds),
        )
    return [table, *_more(len(presences) - top, "with fewer")]


def _leases(leases: Sequence[Leases]) -> list[RenderableType]:
    held, overdue = sum(each.held for each in leases), sum(each.overdue for each in leases)
    return [Text(f"\nLeases of processes: {held:,} held, {overdue:,} overdue", style="bold")] if leases else []


def _leftovers(leftovers: Sequence[Leftover], top: int) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for kind, meaning in _LEFTOVERS.items():
        some = [leftover for leftover in leftovers if leftover.kind == kind]
        if not some:
            continue
        parts.append(Text.assemble((f"\nLeftovers, {kind}: {counted(len(some), 'key')}", "bold"), f" ({meaning})"))
        table = _table(None, "key~", "shard>", "members>", "bytes>")
        for leftover in some[:top]:
            table.add_row(Text(leftover.key), str(leftover.shard), known(leftover.members), size(leftover.bytes))
        parts += [table, *_more(len(some) - top, "")]
    return parts


def _subscriptions(picture: Picture, top: int) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for title, names in (("Groups", picture.subscribed_groups), ("Channels", picture.subscribed_channels)):
        if not names:
            parts.append(Text(f"\n{title}: nobody subscribes to any.", style="bold"))
            continue
        table = _table(f"\n{title}: {len(names):,}", f"{title.lower()[:-1]}~", "shard>", "subscribed connections>")
        for subscription in names[:top]:
            table.add_row(Text(subscription.name), str(subscription.shard), known(subscription.subscribers))
        parts += [table, *_more(len(names) - top, "with as many or fewer")]
    return parts


def _notes(picture: Picture) -> list[Text]:
    notes: list[Text] = []
    for shard in picture.shards:
        where = f"shard {shard.shard} ({shard.host})"
        if shard.error is not None:
            notes.append(Text(f"{where}: {shard.error}", style="red"))
        if shard.refused:
            refused = ", ".join(shard.refused)
            notes.append(Text(f"{where}: the server refuses {refused}; what these tell is not shown", style="yellow"))
        examined = shard.keys_examined
        if not shard.complete and shard.error is None and examined is not None and examined != shard.keys:
            total = "" if shard.keys is None else f" of {shard.keys:,}"
            notes.append(
                Text(
                    f"{where}: cut short after {examined:,}{total} keys of the database; --max-keys looks at more",
                    style="yellow",
                )
            )
        elif not shard.complete and shard.error is None and not _NAMES & set(shard.refused):
            notes.append(Text(f"{where}: cut short; --max-keys looks at more names", style="yellow"))
        if shard.nameless_receivers:
            notes.append(
                Text(
                    f"{where}: {counted(shard.nameless_receivers, 'connection')} without a name wait in BZPOPMIN, as "
                    "those of channels_redis do"
                )
            )
    if picture.layer == "pubsub":
        notes.append(Text("General channels carry no prefix on this layer, so they are not among the channels."))
    return [Text(""), *notes] if notes else []


def _more(left: int, what: str) -> list[Text]:
    if left <= 0:
        return []
    return [Text(f"... and {left:,} more{f', {what}' if what else ''} (--top N, --json)", style="dim")]
