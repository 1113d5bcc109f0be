"""The option `history`: what is refused, by name, and which rule counts."""

from __future__ import annotations

import re
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest

from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.history.retention import MAX_BYTES, Retention, RetentionRules
from channels_redis_fast.pubsub import RedisPubSubChannelLayer

LAYERS = [RedisChannelLayer, RedisPubSubChannelLayer]
RULE = {"size": 100, "ttl": 60}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("history", "error", "text"),
    [
        (["room"], TypeError, "Option 'history' must be a dict, not list."),
        ("room", TypeError, "Option 'history' must be a dict, not str."),
        ({5: RULE}, TypeError, "Option 'history': keys must be globs or compiled patterns, not int."),
        ({b"room": RULE}, TypeError, "Option 'history': keys must be globs or compiled patterns, not bytes."),
        ({None: RULE}, TypeError, "Option 'history': keys must be globs or compiled patterns, not NoneType."),
        (
            {re.compile(b"room"): RULE},
            TypeError,
            "Option 'history': group names are text, but b'room' is a pattern of bytes.",
        ),
        ({"room": 100}, TypeError, "Option 'history['room']' must be a dict with 'size' and 'ttl', not int."),
        ({"room": None}, TypeError, "Option 'history['room']' must be a dict with 'size' and 'ttl', not NoneType."),
        ({"room": {}}, ValueError, "Option 'history['room']' lacks 'size'."),
        ({"room": {"size": 5}}, ValueError, "Option 'history['room']' lacks 'ttl'."),
        ({re.compile("a.c"): {"ttl": 5}}, ValueError, "Option 'history['a.c']' lacks 'size'."),
        (
            {"room": {**RULE, "bytes": 5}},
            ValueError,
            "Option 'history['room']' has an unknown key 'bytes'; it takes 'size', 'ttl' and 'max_bytes'.",
        ),
        (
            {"room": {**RULE, "size": 0}},
            ValueError,
            "Option 'history['room']['size']' must be at least one message and less than 2**63; it is 0.",
        ),
        (
            {"room": {**RULE, "size": 2**63}},
            ValueError,
            f"Option 'history['room']['size']' must be at least one message and less than 2**63; it is {2**63}.",
        ),
        (
            {"room": {**RULE, "size": -1}},
            ValueError,
            "Option 'history['room']['size']' must not be negative; it is -1.",
        ),
        (
            {"room": {**RULE, "size": True}},
            TypeError,
            "Option 'history['room']['size']' must be a whole number, not bool.",
        ),
        (
            {"room": {**RULE, "size": 1.5}},
            TypeError,
            "Option 'history['room']['size']' must be a whole number, not float.",
        ),
        (
            {"room": {**RULE, "ttl": None}},
            TypeError,
            "Option 'history['room']['ttl']' must be a number of seconds, not NoneType.",
        ),
        (
            {"room": {**RULE, "ttl": 0.5}},
            ValueError,
            "Option 'history['room']['ttl']' must be at least one second and less than 2**31; it is 0.5.",
        ),
        (
            {"room": {**RULE, "max_bytes": 0}},
            ValueError,
            "Option 'history['room']['max_bytes']' must be at least one byte, or None for no limit; it is 0.",
        ),
        (
            {"room": {**RULE, "max_bytes": "many"}},
            TypeError,
            "Option 'history['room']['max_bytes']' must be a whole number, not str.",
        ),
        ({"ok": RULE, "room": {"size": 5}}, ValueError, "Option 'history['room']' lacks 'ttl'."),
    ],
)
def test_a_wrong_option_is_refused_by_name(layer: Any, history: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        layer(history=history)
    assert str(raised.value) == text


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "history", [None, {}, {"room*": RULE}, OrderedDict({"*": RULE}), MappingProxyType({"*": RULE})]
)
def test_what_is_taken(layer: Any, history: Any) -> None:
    layer(history=history)


def test_the_first_match_counts() -> None:
    rules = RetentionRules(
        {
            "room.vip": {"size": 1, "ttl": 1},
            re.compile(r"room\.\d+$"): {"size": 2, "ttl": 2},
            "room.*": {"size": 3, "ttl": 3},
            "[ab]?": {"size": 4, "ttl": 4},
        }
    )
    for group, size in [("room.vip", 1), ("room.7", 2), ("room.x", 3), ("room.77x", 3), ("a1", 4), ("ab", 4)]:
        found = rules.lookup(group)
        assert found is not None
        assert found.size == found.ttl == size, group
    for group in ("room", "Room.x", "c1", "a", "lobby", ""):
        assert rules.lookup(group) is None


def test_the_order_is_that_of_the_dict() -> None:
    assert RetentionRules({"*": RULE, "room": {"size": 1, "ttl": 1}}).lookup("room") == Retention(100, 60, MAX_BYTES)


def test_values_as_settings_have_them() -> None:
    """Text from the environment, and whole numbers that are floats."""
    rules = RetentionRules({"*": {"size": "50", "ttl": "90.7", "max_bytes": 1e6}})
    assert rules.lookup("room") == Retention(50, 90, 1_000_000)
    assert RetentionRules({"*": {**RULE, "max_bytes": None}}).lookup("room") == Retention(100, 60, MAX_BYTES)


def test_no_rules_match_nothing() -> None:
    assert RetentionRules({}).lookup("room") is None
