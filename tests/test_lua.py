"""What all scripts have in common."""

from __future__ import annotations

import re
import sys

import pytest

from channels_redis_fast.connection.script import Script
from channels_redis_fast.core import RedisChannelLayer
from channels_redis_fast.pubsub import RedisPubSubChannelLayer

#: So that the modules of all scripts are imported.
LAYERS = (RedisChannelLayer, RedisPubSubChannelLayer)

SCRIPTS = {
    f"{module}.{name}": value
    for module, members in sorted(sys.modules.items())
    if module.startswith("channels_redis_fast.")
    for name, value in vars(members).items()
    if isinstance(value, Script)
}


def test_scripts_are_found() -> None:
    assert len(SCRIPTS) >= 10


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_texts_are_ordered(name: str) -> None:
    """In Lua 5.1 their order depends on the locale in which the server was started."""
    assert not re.search(rb"[<>]=?\s*'|'\s*[<>]", SCRIPTS[name].text)
