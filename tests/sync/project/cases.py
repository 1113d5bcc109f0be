"""The site's own tests. Each change of `CHANNEL_LAYERS` gives it a new layer, and the old one is dropped."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from typing import Any

import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.contrib.auth.models import User
from django.db.models.signals import post_save
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from tests.core.helpers import clients
from tests.sync.helpers import wait_until


def changed(**options: Any) -> dict[str, Any]:
    entry = settings.CHANNEL_LAYERS["default"]
    return {"default": {**entry, "CONFIG": {**entry["CONFIG"], **options}}}


def tell(**_: Any) -> None:
    """A signal handler, as sites have them."""
    async_to_sync(get_channel_layer().group_send)("room", {"type": "saved"})
    get_channel_layer().sync.group_send("room", {"type": "saved"})


class Saving:
    """Saves what a signal handler tells of, in either kind of database test."""

    def setUp(self) -> None:
        post_save.connect(tell, sender=User)

    def tearDown(self) -> None:
        post_save.disconnect(tell, sender=User)

    def test_save(self) -> None:
        for n in range(5):
            User.objects.create(username=f"user{n}")
        assert get_channel_layer().stats()["group_sends"] >= 10

    def test_save_with_another_layer(self) -> None:
        with override_settings(CHANNEL_LAYERS=changed(prefix=os.environ["SITE_PREFIX"] + "other")):
            User.objects.create(username="user")
            assert get_channel_layer().stats()["group_sends"] == 2

    def test_save_in_a_thread(self) -> None:
        thread = threading.Thread(target=tell)
        thread.start()
        thread.join()

    async def test_async(self) -> None:
        layer = get_channel_layer()
        await layer.group_send("room", {"type": "saved"})
        await asyncio.to_thread(tell)


class InTransactions(Saving, TestCase):
    pass


class WithoutTransactions(Saving, TransactionTestCase):
    pass


class ManyLayers(SimpleTestCase):
    def test_each_is_dropped(self) -> None:
        for n in range(30):
            with override_settings(CHANNEL_LAYERS=changed(sync_timeout=n + 1)):
                assert get_channel_layer().sync_timeout == n + 1
                tell()
        # This one's last layer may be there still, and the site's own.
        with redis.Redis.from_url(os.environ["SITE_URL"]) as raw:
            wait_until(lambda: gc.collect() >= 0 and len(clients(raw, os.environ["SITE_PREFIX"])) <= 2)
