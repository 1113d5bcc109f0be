"""
Chooses the functions that validate a layer's names: the compiled ones, or Channels' methods if a subclass changes the
rules.

Knows the names of the methods and attributes of Channels' ``BaseChannelLayer`` that define the rules.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from channels.layers import BaseChannelLayer

from .hot import find, is_group, kind
from .messages.mailbox import Inbox

_RULES = (
    "MAX_NAME_LENGTH",
    "channel_name_regex",
    "group_name_regex",
    "match_type_and_length",
    "require_valid_channel_name",
    "require_valid_group_name",
)


class Names(NamedTuple):
    """
    The checks of names. If they are not sure, ``kind`` returns a negative number, ``is_group`` False and ``find`` None:
    then Channels' own methods decide.
    """

    kind: Callable[[Any], int]
    is_group: Callable[[Any], bool]
    find: Callable[[dict[str, Inbox], str], Inbox | None]


def names_of(layer: type[BaseChannelLayer]) -> Names:
    """Return the compiled functions; for a class with its own rules, functions that are never sure."""
    is_plain = all(getattr(layer, rule) is getattr(BaseChannelLayer, rule) for rule in _RULES)
    return Names(kind, is_group, find) if is_plain else Names(_not_sure, _not_sure_of_group, _find_nothing)


def _not_sure(name: object) -> int:
    return -1


def _not_sure_of_group(name: object) -> bool:
    return False


def _find_nothing(table: dict[str, Inbox], name: str) -> None:
    return None


def unique_name() -> str:
    """Return 32 hex digits, like ``uuid4().hex`` in channels_redis' names, at a third of the cost."""
    return os.urandom(16).hex()
