"""Replaces the layer of the settings with an in-memory layer for one test."""

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

#: Packages whose layers have all or most options of the in-memory layer.
_KIN = ("channels_redis_fast.", "channels_redis.")

#: Stands for a layer that ``channel_layers`` has not created yet.
_MISSING: Any = object()


@contextmanager
def memory_layer(alias: str = DEFAULT_CHANNEL_LAYER, **options: Any) -> Iterator[InMemoryChannelLayer]:
    """
    Replace the layer of an alias with a new in-memory layer. Use it as a context manager or a decorator.

    If the alias' backend is a layer of this package or of channels_redis, the new layer has its options from
    CHANNEL_LAYERS; ``options`` override them. Afterwards the previous layer is restored.

        class ChatTests(TestCase):
            def setUp(self):
                self.layer = self.enterContext(memory_layer())

    Raises ``TypeError`` or ``ValueError`` naming a wrong option.
    """
    layer = InMemoryChannelLayer(**{**_configured(alias), **options})
    before = channel_layers.backends.get(alias, _MISSING)
    channel_layers.set(alias, layer)
    try:
        yield layer
    finally:
        # ``override_settings`` discards all layers; then there is nothing to restore.
        if channel_layers.backends.get(alias) is layer:
            del channel_layers.backends[alias]
            if before is not _MISSING:
                channel_layers.set(alias, before)


def _configured(alias: str) -> dict[str, Any]:
    """Return an alias' options from the settings, without those that mean nothing in memory."""
    try:
        configured = getattr(settings, "CHANNEL_LAYERS", {})
    except ImproperlyConfigured:
        # Tests of code that is not a Django site.
        return {}
    entry = configured.get(alias, {})
    if not str(entry.get("BACKEND", "")).startswith(_KIN):
        return {}
    known = signature(InMemoryChannelLayer.__init__).parameters
    # A subclass may have options of its own; the in-memory layer replaces it without them.
    return {name: value for name, value in (entry.get("CONFIG") or {}).items() if name in known}
