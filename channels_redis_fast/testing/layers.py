"""A layer for one test, in place of that of the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ..memory import InMemoryChannelLayer

#: Packages whose layers have the options of the in-memory layer, or most of them.
_KIN = ("channels_redis_fast.", "channels_redis.")

#: What ``channel_layers`` has where the layer was not made yet.
_MISSING: Any = object()


@contextmanager
def memory_layer(alias: str = DEFAULT_CHANNEL_LAYER, **options: Any) -> Iterator[InMemoryChannelLayer]:
    """
    Replace the layer of an alias with a new in-memory layer: a context manager and a decorator.

    If the alias' backend is a layer of this package or of channels_redis, the new layer has its options from
    CHANNEL_LAYERS; ``options`` override them. Afterwards the previous layer is restored.

        class ChatTests(TestCase):
            def setUp(self):
                self.layer = self.enterContext(memory_layer())

    Raises ``TypeError`` or ``ValueError`` naming an option that is wrong.
    """
    layer = InMemoryChannelLayer(**{**_configured(alias), **options})
    before = channel_layers.backends.get(alias, _MISSING)
    channel_layers.set(alias, layer)
    try:
        yield layer
    finally:
        # ``override_settings`` throws all layers away: then there is nothing to put back.
        if channel_layers.backends.get(alias) is layer:
            del channel_layers.backends[alias]
            if before is not _MISSING:
                channel_layers.set(alias, before)


def _configured(alias: str) -> dict[str, Any]:
    """Return the options that an alias has in the settings, without those that mean nothing in memory."""
    try:
        configured = getattr(settings, "CHANNEL_LAYERS", {})
    except ImproperlyConfigured:
        # Tests of something that is no site.
        return {}
    entry = configured.get(alias, {})
    if not str(entry.get("BACKEND", "")).startswith(_KIN):
        return {}
    known = signature(InMemoryChannelLayer.__init__).parameters
    # The options of a subclass are its own; the in-memory layer stands in for it without them.
    return {name: value for name, value in (entry.get("CONFIG") or {}).items() if name in known}
