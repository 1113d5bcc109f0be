"""
What ``inspect`` shows on a terminal: a ``Picture`` as tables, the fullest first. Sends no commands, and knows no Redis.

``render`` shows all of it, ``Screen`` as much as fits into the terminal's height. What is left out is noted where it is
missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stack
from rich.segment import Segment
from rich.text import Text

from ...survey.snapshot import History, Leases, Leftover, Picture, Presence, Shard, Subscription
from ..tables import Column, FittingTable, Kind
from ..texts import counted, duration, known, size

#: The fill from which a channel is coloured yellow, and red.
WARM, FULL = 0.75, 1.0

#: How to see the rows that ``--top`` leaves out, and those that do not fit on the screen.
MORE_ROWS, MORE_LINES = "--top N, --json", "a taller terminal, --json"

#: How to see the columns that do not fit.
MORE_COLUMNS = "a wider terminal or --json shows them"

#: The commands that list all names of the Pub/Sub layer. If they are refused, no list is cut short.
_NAMES = {"PUBSUB CHANNELS", "PUBSUB SHARDCHANNELS"}

#: The roles' names in INFO, and their usual names.
_ROLES = {"master": "primary", "slave": "replica"}

_LEFTOVERS = {
    "inflight": "backup queue of channels_redis; delete it when no process runs channels_redis any more",
    "no expiry": "stays until somebody deletes it; this package writes no such keys",
    "not a hash": "another program's key where a group's presence belongs: joining that group fails",
    "not a stream": "another program's key where a history belongs: sending to that group fails",
    "not a sorted set": "a key of another program, or of an old channels_redis: sending to this name fails",
    "foreign": "not of this layer. Does another layer's prefix begin with this one? `flush` deletes its keys too",
}


def render(picture: Picture, top: int) -> RenderableType:
    """Return a whole picture, with at most ``top`` rows in each table of names."""
    return Stack(*_parts(picture, _Limits(top, None, MORE_ROWS)))


@dataclass(frozen=True)
class Screen:
    """A picture that fits the height at which it is printed; a renderable of rich. ``top`` as in ``render``."""

    picture: Picture
    top: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the picture with as many rows of each table as fit."""
        height = options.height or options.size.height
        # Otherwise everything that is measured would be as tall as the screen.
        free = options.reset_height()

        def lines(rows: int) -> list[list[Segment]]:
            why = MORE_ROWS if rows >= self.top else MORE_LINES
            parts = _parts(self.picture, _Limits(rows, rows, why))
            return console.render_lines(Stack(*parts), free, pad=False)

        fewest, most = 1, max(1, min(self.top, height))
        while fewest < most:
            middle = (fewest + most + 1) // 2
            if len(lines(middle)) <= height:
                fewest = middle
            else:
                most = middle - 1
        shown = lines(fewest)
        if len(shown) > height:
            left = len(shown) - height + 1
            note = Text(
                f"... and {counted(left, 'line')} ({MORE_LINES})", style="dim", no_wrap=True, overflow="ellipsis"
            )
            shown = [*shown[: height - 1], *console.render_lines(note, free, pad=False)]
        for number, line in enumerate(shown):
            if number:
                yield Segment.line()
            yield from line


@dataclass(frozen=True)
class _Limits:
    """Rows in tables of names, and in the others, which are long only for large deployments (None: all rows)."""

    names: int
    others: int | None
    #: How to see the rest.
    remedy: str

    def more(self, total: int, what: str = "", limit: int | None = -1) -> list[RenderableType]:
        """Return the line below a table that shows fewer rows than there are."""
        limit = self.names if limit == -1 else limit
        if limit is None or total <= limit:
            return []
        return [Text(f"... and {total - limit:,} more{f', {what}' if what else ''} ({self.remedy})", style="dim")]


def _parts(picture: Picture, limits: _Limits) -> list[RenderableType]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(picture.at))
    kind = "Core layer" if picture.layer == "core" else "Pub/Sub layer"
    parts: list[RenderableType] = [
        Text(f"{kind} of {picture.deployment}, prefix {picture.prefix!r}, {when}", style="bold"),
        *_shards(picture.shards, limits),
    ]
    if any(shard.error is None for shard in picture.shards):
        if picture.layer == "core":
            parts += _channels(picture, limits) + _groups(picture, limits)
        else:
            parts += _subscriptions(picture, limits)
        parts += _histories(picture.histories, limits) + _presences(picture.presences, limits)
        parts += _leases(picture.leases) + _leftovers(picture.leftovers, limits)
    return parts + _notes(picture, limits)


def _table(title: str | None, *columns: Column) -> FittingTable:
    return FittingTable(None if title is None else f"\n{title}", columns, remedy=MORE_COLUMNS)


def _shards(shards: Sequence[Shard], limits: _Limits) -> list[RenderableType]:
    is_cluster = any(shard.slots is not None for shard in shards)
    table = _table(
        "Primaries of the cluster" if is_cluster else "Shards",
        Column("shard", Kind.NUMBER, 1),
        Column("host", Kind.NAME),
        Column("server", Kind.SENTENCE),
        Column("role", rank=5),
        *([Column("slots", Kind.NUMBER, 4)] if is_cluster else []),
        Column("memory", Kind.NUMBER, 2),
        Column("limit", Kind.NUMBER, 6),
        Column("ops/s", Kind.NUMBER, 3),
        Column("clients", Kind.NUMBER, 2),
        Column("our connections", Kind.SENTENCE, 4),
    )
    for shard in shards[: limits.others]:
        if shard.error is not None:
            nothing = [""] * (len(table.columns) - 3)
            table.add(str(shard.shard), shard.host, Text(shard.reason or "not reachable", style="red"), *nothing)
            continue
        ours = shard.connections
        shown = "?" if ours is None else ", ".join(f"{name} {count}" for name, count in ours.items()) or "none"
        table.add(
            str(shard.shard),
            shard.host,
            f"{shard.server or '?'} {shard.version or ''}".strip(),
            _ROLES.get(shard.role or "", shard.role or "?"),
            *([known(shard.slots)] if is_cluster else []),
            size(shard.memory),
            "none" if shard.max_memory == 0 else size(shard.max_memory),
            known(shard.operations_per_second),
            known(shard.clients),
            shown,
        )
    return [table, *limits.more(len(shards), "", limits.others)]


def _channels(picture: Picture, limits: _Limits) -> list[RenderableType]:
    channels = picture.channels
    if not channels:
        return [Text("\nChannels: no messages are waiting.", style="bold")]
    messages = sum(channel.depth for channel in channels)
    full = sum(channel.fill >= FULL for channel in channels)
    table = _table(
        f"Channels: {counted(len(channels), 'key')} with {counted(messages, 'message')}, {full:,} full",
        Column("channel", Kind.NAME),
        Column("shard", Kind.NUMBER, 5),
        Column("waiting", Kind.NUMBER),
        Column("expired", Kind.NUMBER, 4),
        Column("capacity", Kind.NUMBER, 2),
        Column("full", Kind.NUMBER, 1),
        Column("oldest", Kind.NUMBER, 1),
        Column("bytes", Kind.NUMBER, 3),
        Column(""),
    )
    for channel in channels[: limits.names]:
        style = "red" if channel.fill >= FULL else "yellow" if channel.fill >= WARM else ""
        table.add(
            channel.channel,
            str(channel.shard),
            f"{channel.depth:,}",
            f"{channel.expired:,}" if channel.expired else "-",
            f"{channel.capacity:,}",
            Text(f"{channel.fill:.0%}", style=style),
            duration(channel.oldest_seconds),
            size(channel.bytes),
            Text("unreadable" if channel.readable is False else "", style="red"),
        )
    parts: list[RenderableType] = [table, *limits.more(len(channels), "less full")]
    if any(channel.readable is False for channel in channels[: limits.names]):
        parts.append(Text("(unreadable: the oldest message cannot be read with these settings)", style="red"))
    return parts


def _groups(picture: Picture, limits: _Limits) -> list[RenderableType]:
    groups = picture.groups
    if not groups:
        return [Text("\nGroups: none.", style="bold")]
    members = sum(group.members for group in groups)
    table = _table(
        f"Groups: {len(groups):,} with {counted(members, 'member')}",
        Column("group", Kind.NAME),
        Column("shard", Kind.NUMBER, 4),
        Column("members", Kind.NUMBER),
        Column("past group_expiry", Kind.NUMBER, 2),
        Column("bytes", Kind.NUMBER, 1),
        Column("expires in", Kind.NUMBER, 3),
    )
    for group in groups[: limits.names]:
        table.add(
            group.group,
            str(group.shard),
            f"{group.members:,}",
            f"{group.expired:,}" if group.expired else "-",
            size(group.bytes),
            duration(group.expires_in_seconds),
        )
    return [table, *limits.more(len(groups), "smaller")]


def _histories(histories: Sequence[History], limits: _Limits) -> list[RenderableType]:
    if not histories:
        return []
    entries = sum(history.length or 0 for history in histories)
    table = _table(
        f"Histories: {len(histories):,} with {entries:,} entries",
        Column("group", Kind.NAME),
        Column("shard", Kind.NUMBER, 4),
        Column("entries", Kind.NUMBER),
        Column("bytes", Kind.NUMBER, 1),
        Column("oldest", Kind.NUMBER, 2),
        Column("expires in", Kind.NUMBER, 3),
    )
    for history in histories[: limits.names]:
        table.add(
            history.group,
            str(history.shard),
            known(history.length),
            size(history.bytes),
            duration(history.oldest_seconds),
            duration(history.expires_in_seconds),
        )
    return [table, *limits.more(len(histories), "smaller")]


def _presences(presences: Sequence[Presence], limits: _Limits) -> list[RenderableType]:
    if not presences:
        return []
    users = sum(presence.users or 0 for presence in presences)
    table = _table(
        f"Presence: {counted(users, 'user')} in {counted(len(presences), 'group')}",
        Column("group", Kind.NAME),
        Column("shard", Kind.NUMBER, 4),
        Column("users", Kind.NUMBER),
        Column("processes", Kind.NUMBER, 1),
        Column("bytes", Kind.NUMBER, 2),
        Column("expires in", Kind.NUMBER, 3),
    )
    for presence in presences[: limits.names]:
        table.add(
            presence.group,
            str(presence.shard),
            known(presence.users),
            known(presence.processes),
            size(presence.bytes),
            duration(presence.expires_in_seconds),
        )
    return [table, *limits.more(len(presences), "with fewer")]


def _leases(leases: Sequence[Leases]) -> list[RenderableType]:
    held, overdue = sum(each.held for each in leases), sum(each.overdue for each in leases)
    return [Text(f"\nLeases of processes: {held:,} held, {overdue:,} overdue", style="bold")] if leases else []


def _leftovers(leftovers: Sequence[Leftover], limits: _Limits) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for kind, meaning in _LEFTOVERS.items():
        some = [leftover for leftover in leftovers if leftover.kind == kind]
        if not some:
            continue
        parts.append(Text.assemble((f"\nLeftovers, {kind}: {counted(len(some), 'key')}", "bold"), f" ({meaning})"))
        table = _table(
            None,
            Column("key", Kind.NAME),
            Column("shard", Kind.NUMBER, 2),
            Column("members", Kind.NUMBER, 1),
            Column("bytes", Kind.NUMBER, 1),
        )
        for leftover in some[: limits.names]:
            table.add(leftover.key, str(leftover.shard), known(leftover.members), size(leftover.bytes))
        parts += [table, *limits.more(len(some))]
    return parts


def _subscriptions(picture: Picture, limits: _Limits) -> list[RenderableType]:
    parts: list[RenderableType] = []
    names: Sequence[Subscription]
    for title, names in (("Groups", picture.subscribed_groups), ("Channels", picture.subscribed_channels)):
        if not names:
            parts.append(Text(f"\n{title}: no subscribers.", style="bold"))
            continue
        table = _table(
            f"{title}: {len(names):,}",
            Column(title.lower()[:-1], Kind.NAME),
            Column("shard", Kind.NUMBER, 1),
            Column("subscribed connections", Kind.NUMBER),
        )
        for subscription in names[: limits.names]:
            table.add(subscription.name, str(subscription.shard), known(subscription.subscribers))
        parts += [table, *limits.more(len(names), "with as many or fewer")]
    return parts


def _notes(picture: Picture, limits: _Limits) -> list[RenderableType]:
    notes = [note for shard in picture.shards for note in _notes_on(shard)]
    if picture.layer == "pubsub":
        notes.append(Text("General channels have no prefix on this layer, so they are not listed."))
    if not notes:
        return []
    return [Text(""), *notes[: limits.others], *limits.more(len(notes), "notes on shards", limits.others)]


def _notes_on(shard: Shard) -> Iterator[Text]:
    where = f"shard {shard.shard} ({shard.host})"
    if shard.error is not None:
        yield Text(f"{where}: {shard.error.removeprefix(f'{shard.host}: ')}", style="red")
    if shard.refused:
        yield Text(f"{where}: the server refuses {', '.join(shard.refused)}; some values are unknown", style="yellow")
    examined = shard.keys_examined
    if not shard.complete and shard.error is None and examined is not None and examined != shard.keys:
        total = "" if shard.keys is None else f" of {shard.keys:,}"
        text = f"{where}: stopped after {examined:,}{total} keys of the database (--max-keys raises the limit)"
        yield Text(text, style="yellow")
    elif not shard.complete and shard.error is None and not _NAMES & set(shard.refused):
        yield Text(f"{where}: the list is incomplete (--max-keys raises the limit)", style="yellow")
    if shard.nameless_receivers:
        receivers = counted(shard.nameless_receivers, "unnamed connection")
        yield Text(f"{where}: {receivers} waiting in BZPOPMIN, probably of channels_redis")
