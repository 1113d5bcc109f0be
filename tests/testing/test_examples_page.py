"""The code of the page of examples, run: what a newcomer copies works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "examples.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="outside the source tree")

SETTINGS = """
import django
from django.conf import settings

settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "channels_redis_fast.memory.InMemoryChannelLayer"}})
django.setup()
"""

ROOM = """
import asyncio
from channels_redis_fast.testing import communicator

async def talk():
    async with communicator(application) as one, communicator(application) as other:
        await one.send_json_to({"text": "hello"})
        assert await other.receive_json_from() == await one.receive_json_from() == {"text": "hello"}

asyncio.run(talk())
"""

NOTIFICATIONS = """
import asyncio
from types import SimpleNamespace
from channels_redis_fast.testing import communicator

transaction.on_commit = lambda function: function()
user = SimpleNamespace(pk=7, is_authenticated=True)

async def be_notified():
    async with communicator(Notifications.as_asgi(), scope={"user": user}) as tab:
        await asyncio.to_thread(notify, user, "a new message")
        assert await tab.receive_json_from() == {"text": "a new message"}

asyncio.run(be_notified())
"""

ALBUM = """
import asyncio
from channels.layers import get_channel_layer
from channels_redis_fast.testing import communicator

async def watch():
    async with communicator(Album.as_asgi()) as client:
        await client.send_json_to({"photos": ["a", "b"]})
        job = await get_channel_layer().receive("thumbnails")
        await asyncio.to_thread(Thumbnails.__dict__["make_thumbnails"], worker(), job)
        assert [await client.receive_json_from() for _ in range(2)] == [{"done": 1, "of": 2}, {"done": 2, "of": 2}]

def worker():
    found = Thumbnails()
    found.channel_layer = get_channel_layer()
    return found

asyncio.run(watch())
"""

RUN = {
    "A room in one file": ROOM,
    "Notify a user from anywhere": NOTIFICATIONS,
    "A job with progress": ALBUM,
}


@pytest.mark.parametrize("heading", RUN)
def test_it_does_what_it_says(heading: str) -> None:
    (section,) = re.findall(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    blocks = [block for block in re.findall(r"^```python\n(.*?)^```", section, re.M | re.S) if "# asgi.py" not in block]
    assert blocks
    preamble = "" if "settings.configure" in blocks[0] else SETTINGS
    script = "\n".join((preamble, *blocks, RUN[heading]))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
