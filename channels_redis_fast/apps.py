"""
The Django app: registers the system checks of ``checks``, and does what the setting CHANNELS_REDIS_FAST asks for.

``CHANNELS_REDIS_FAST = {"CONSUMERS": "direct"}`` gives every consumer of the site the dispatch of ``consumers``.
"""

from __future__ import annotations

import logging
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import register
from django.core.exceptions import ImproperlyConfigured

from .checks import check_consumers, check_layers

logger = logging.getLogger("channels_redis_fast")

#: The settings of CHANNELS_REDIS_FAST: their values, the default first.
SETTINGS = {"CONSUMERS": ("channels", "direct")}


class ChannelsRedisFastConfig(AppConfig):  # type: ignore[misc]
    """The Django app; it has no models."""

    name = "channels_redis_fast"
    verbose_name = "Channel layers on Redis"

    #: Why direct dispatch could not be activated, if it was asked for and could not.
    refused: str | None = None

    def ready(self) -> None:
        """
        Have ``manage.py check`` look at CHANNEL_LAYERS, and give consumers the dispatch that the settings ask for.

        Raises ``ImproperlyConfigured`` for a setting or a value in CHANNELS_REDIS_FAST that is unknown.
        """
        register(check_layers)
        register(check_consumers)
        if read_settings()["CONSUMERS"] == "direct":
            # Imported only where a site asks for it.
            from .consumers import install  # noqa: PLC0415

            try:
                install()
            except RuntimeError as error:
                # Slower is better than down.
                self.refused = str(error)
                logger.warning("%s", error)


def read_settings() -> dict[str, str]:
    """Return CHANNELS_REDIS_FAST with its defaults. Raises ``ImproperlyConfigured`` naming what is unknown in it."""
    given: Any = getattr(settings, "CHANNELS_REDIS_FAST", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"CHANNELS_REDIS_FAST must be a dict, not {type(given).__name__}.")
    for name, value in given.items():
        if name not in SETTINGS:
            raise ImproperlyConfigured(
                f"CHANNELS_REDIS_FAST[{name!r}] is unknown; there is {', '.join(map(repr, SETTINGS))}."
            )
        if value not in SETTINGS[name]:
            allowed = " or ".join(map(repr, SETTINGS[name]))
            raise ImproperlyConfigured(f"CHANNELS_REDIS_FAST[{name!r}] must be {allowed}; it is {value!r}.")
    return {name: given.get(name, values[0]) for name, values in SETTINGS.items()}
