"""
Group members whose process is dead: they get no messages, and after a while they are removed from the group.

Knows keys and names. ``liveness`` decides which processes are dead.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ..connection.identity import ServerIdentity
from ..connection.script_call import ScriptCall
from . import scripts
from .liveness import DeadProcesses
from .names import Part

logger = logging.getLogger("channels_redis_fast")

#: Maximum number of members that one call removes.
AT_ONCE = 1000


class LivingMembers(NamedTuple):
    """
    The members of a group by shard, without those of dead processes.

    ``skipped``: how many were left out. ``removable``: those to remove from the group, by the score below which they
    were added before their process died.
    """

    shards: list[Part]
    skipped: int
    removable: dict[float, list[str]]


def process_of(key: bytes) -> bytes:
    """Return the name of the process in the key of its channels, which ends with ``!``; empty for any other key."""
    return key[key.rfind(b".") + 1 : -1] if key.endswith(b"!") else b""


def leave_out(shards: list[Part], dead: DeadProcesses) -> LivingMembers:
    """Separate the members of a group, given by shard and key, by whether their process is dead."""
    living: list[Part] = []
    skipped = 0
    removable: dict[float, list[str]] = {}
    for keys, channels in shards:
        part: Part = ([], [])
        for key, names in zip(keys, channels, strict=True):
            process = process_of(key)
            if process not in dead.names:
                part[0].append(key)
                part[1].append(names)
                continue
            skipped += len(names)
            limit = dead.removable.get(process)
            if limit is not None:
                removable.setdefault(limit, []).extend(names)
        living.append(part)
    return LivingMembers(living, skipped, removable)


def remove(way: Any, group: str, group_key: bytes, removable: dict[float, list[str]]) -> None:
    """
    Remove members from a group unless they were added since. Nobody waits for the result.

    ``way``: the command connection to the group's server, or the queue of its slot.
    """
    for limit, names in removable.items():
        for start in range(0, len(names), AT_ONCE):
            way.submit(_Removal(way, group, group_key, limit, names[start : start + AT_ONCE]))


class _Removal(ScriptCall):
    """One call that removes members. If scripts are refused, they stay until ``group_expiry``, and get nothing."""

    __slots__ = ("_arguments", "_group")

    repeatable = True

    def __init__(self, way: Any, group: str, group_key: bytes, limit: float, names: list[str]) -> None:
        super().__init__(scripts.REMOVE_MEMBERS, way)
        self._group = group
        self._arguments: list[Any] = [1, group_key, f"{limit:.6f}", *names]

    def arguments(self, server: ServerIdentity) -> list[Any]:
        return self._arguments

    def done(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            logger.debug("Members of dead processes stay in group %s: %s", self._group, reply)
        elif reply:
            logger.info("Removed %s members of group %s whose processes have ended", reply, self._group)

    def refused(self, error: ResponseError | None) -> None:
        """Do nothing: there is no alternative without scripts."""
