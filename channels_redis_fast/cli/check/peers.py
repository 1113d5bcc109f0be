"""
What else uses the prefix, as far as Redis shows it: processes with other settings, of channels_redis, of another
prefix.

Reads a ``Picture`` and sends no commands. Settings cannot be seen from outside, only their effects.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...survey.snapshot import Channel, Picture, Shard
from ..texts import counted
from .findings import OK, PROBLEM, UNSEEN, WARNING, Finding

#: The maximum number of names shown.
EXAMPLES = 3

#: Kinds of keys that are not of the type that belongs there: what belongs there, and what fails.
_OF_ANOTHER_TYPE = {
    "not a sorted set": ("channels or groups", "calls with these names fail"),
    "not a stream": ("histories", "sends to these groups fail"),
    "not a hash": ("the presence of groups", "nobody can join these groups"),
}


def check_peers(picture: Picture, shard: Shard, is_twin: bool) -> Iterator[Finding]:
    """Report what other processes have on one shard. ``is_twin``: the project itself runs channels_redis."""
    yield _connections(shard, is_twin)
    if picture.layer == "pubsub":
        yield Finding(UNSEEN, "peers' settings", "unknown: Pub/Sub messages can be seen by subscribers only")
        yield from _keys(picture, shard, is_twin)
        return
    if "SCAN" in shard.refused:
        yield Finding(UNSEEN, "peers' settings", "the user may not use SCAN")
        return
    yield _settings([channel for channel in picture.channels if channel.shard == shard.shard])
    yield from _keys(picture, shard, is_twin)


def _connections(shard: Shard, is_twin: bool) -> Finding:
    item = "connections"
    if shard.connections is None:
        return Finding(UNSEEN, item, "the user may not use CLIENT LIST")
    ours = ", ".join(f"{name} {count}" for name, count in shard.connections.items()) or "none"
    text = f"of this package: {ours}"
    if shard.nameless_receivers:
        text += f"; unnamed in BZPOPMIN, probably of channels_redis: {shard.nameless_receivers}"
        if not is_twin:
            text += " (both can run side by side)"
    return Finding(OK, item, text)


def _settings(channels: list[Channel]) -> Finding:
    item = "peers' settings"
    unreadable = [channel.channel for channel in channels if channel.readable is False]
    if unreadable:
        return Finding(
            PROBLEM,
            item,
            f"{len(unreadable):,} of {len(channels):,} oldest messages cannot be read ({_some(unreadable)}): receivers "
            "with these settings skip them",
            "Use the same serializer_format, random_prefix_length and encryption keys in all processes of a prefix.",
        )
    if not channels:
        return Finding(UNSEEN, item, "no message is waiting that would show them")
    return Finding(
        OK, item, f"the oldest messages of {counted(len(channels), 'channel')} can be read with these settings"
    )


def _keys(picture: Picture, shard: Shard, is_twin: bool) -> Iterator[Finding]:
    kinds = {
        kind: [entry.key for entry in picture.leftovers if entry.shard == shard.shard and entry.kind == kind]
        for kind in ("inflight", "no expiry", *_OF_ANOTHER_TYPE, "foreign")
    }
    if kinds["inflight"] and not is_twin and not shard.nameless_receivers:
        yield Finding(
            WARNING,
            "leftovers",
            f"{counted(len(kinds['inflight']), 'backup queue')} of channels_redis ({_some(kinds['inflight'])}), and "
            "no process of it is connected",
            "UNLINK them when no process runs channels_redis any more: they never expire.",
        )
    if kinds["no expiry"]:
        yield Finding(
            WARNING,
            "leftovers",
            f"{counted(len(kinds['no expiry']), 'key')} without an expiry ({_some(kinds['no expiry'])})",
            "No layer writes such keys: find the program that does, and UNLINK them.",
        )
    for kind, (place, failure) in _OF_ANOTHER_TYPE.items():
        if keys := kinds[kind]:
            yield Finding(
                PROBLEM,
                "leftovers",
                f"{counted(len(keys), 'key')} of another type in place of {place} ({_some(keys)}): {failure}",
                "UNLINK them, or use another prefix.",
            )
    if kinds["foreign"]:
        yield Finding(
            WARNING,
            "prefix",
            f"{counted(len(kinds['foreign']), 'key')} under {picture.prefix!r} that do not belong to this layer "
            f"({_some(kinds['foreign'])}): flush() removes them too",
            "Choose prefixes so that none begins with another.",
        )


def _some(names: list[str]) -> str:
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")
