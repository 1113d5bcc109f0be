"""
Django's own test cases, whose consumers use the database: `python -m tests.consumers.project.orm_cases TestCase`.

The environment says which database (SITE_DATABASE) and whose dispatch (SITE_CONSUMERS).
"""

from __future__ import annotations

import json
import os
import sys
import unittest
from typing import Any
from unittest import mock

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="for tests",
    INSTALLED_APPS=["django.contrib.contenttypes", "channels"],
    DATABASES={"default": json.loads(os.environ["SITE_DATABASE"])},
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    USE_TZ=True,
)
django.setup()

from channels.testing import WebsocketCommunicator  # noqa: E402
from django.contrib.contenttypes.models import ContentType  # noqa: E402
from django.test import TestCase, TransactionTestCase  # noqa: E402
from django.test.runner import DiscoverRunner  # noqa: E402

from tests.consumers.ways import way_of  # noqa: E402


class Cases:
    """What is tried in each kind of test case."""

    async def converse(self) -> None:
        with way_of(os.environ["SITE_CONSUMERS"]) as way:

            class Counts(way.json):  # type: ignore[name-defined,misc]
                async def receive_json(self, content: Any, **kwargs: Any) -> None:
                    await ContentType.objects.acreate(app_label="consumer", model=content)
                    await self.send_json(await ContentType.objects.acount())

            before = await ContentType.objects.acount()
            await ContentType.objects.acreate(app_label="test", model="first")
            socket = WebsocketCommunicator(Counts.as_asgi(), "/")
            await socket.connect()
            for number in range(3):
                await socket.send_json_to(f"number{number}")
                assert await socket.receive_json_from(timeout=10) == before + number + 2
            # The test tools of Channels keep consumers from closing a test's connection, but not at the end.
            with mock.patch("channels.db.close_old_connections"):
                await socket.disconnect()
            assert await ContentType.objects.filter(app_label="consumer").acount() == 3

    async def test_once(self) -> None:
        await self.converse()

    async def test_again(self) -> None:
        """Nothing of the other test is left."""
        assert await ContentType.objects.filter(app_label="consumer").acount() == 0
        await self.converse()


class InTransaction(Cases, TestCase):  # type: ignore[misc]
    """Each test in a transaction that is rolled back."""


class WithCommits(Cases, TransactionTestCase):  # type: ignore[misc]
    """Each test with transactions of its own; the tables are emptied afterwards."""


if __name__ == "__main__":
    runner = DiscoverRunner(verbosity=1, interactive=False)
    chosen = InTransaction if sys.argv[1] == "TestCase" else WithCommits
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(chosen)
    databases = runner.setup_databases()
    result = runner.run_suite(suite)
    runner.teardown_databases(databases)
    sys.exit(not result.wasSuccessful())
