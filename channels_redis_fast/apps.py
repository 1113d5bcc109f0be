"""
The Django app: registers the system checks of ``checks``, and applies the setting CHANNELS_REDIS_FAST.

``CHANNELS_REDIS_FAST = {"CONSUMERS": "direct"}`` gives every consumer of the site the dispatch of ``consumers``.
``LIVE_ACCESS`` and ``LIVE_MAX_KEYS`` are for the live page (``live``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import register
from django.core.exceptions import ImproperlyConfigured

from .checks import check_consumers, check_deployment, check_layers

logger = logging.getLogger("channels_redis_fast")

#: The settings in CHANNELS_REDIS_FAST and their defaults.
DEFAULTS: dict[str, Any] = {"CONSUMERS": "channels", "LIVE_ACCESS": "staff", "LIVE_MAX_KEYS": 10_000}


class ChannelsRedisFastConfig(AppConfig):  # type: ignore[misc]
    """The Django app; it has no models."""

    name = "channels_redis_fast"
    verbose_name = "Channel layers on Redis"

    #: Why direct dispatch could not be activated, if it was asked for and could not.
    refused: str | None = None

    def ready(self) -> None:
        """
        Register the system checks, and give consumers the dispatch that the settings ask for.

        Raises ``ImproperlyConfigured`` for an unknown setting or value in CHANNELS_REDIS_FAST.
        """
        register(check_layers)
        register(check_deployment, deploy=True)
        register(check_consumers)
        if read_settings()["CONSUMERS"] == "direct":
            # Imported only if a site asks for it.
            from .consumers import install  # noqa: PLC0415

            try:
                install()
            except RuntimeError as error:
                # A slower site is better than one that is down.
                self.refused = str(error)
                logger.warning("%s", error)


def read_settings() -> dict[str, Any]:
    """Return CHANNELS_REDIS_FAST with its defaults. Raises ``ImproperlyConfigured`` naming anything unknown in it."""
    given: Any = getattr(settings, "CHANNELS_REDIS_FAST", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured(f"CHANNELS_REDIS_FAST must be a dict, not {type(given).__name__}.")
    for name, value in given.items():
        if name not in DEFAULTS:
            raise ImproperlyConfigured(
                f"CHANNELS_REDIS_FAST[{name!r}] is unknown; the settings are {', '.join(map(repr, DEFAULTS))}."
            )
        right, allowed = _RULES[name]
        if not right(value):
            raise ImproperlyConfigured(f"CHANNELS_REDIS_FAST[{name!r}] must be {allowed}; it is {value!r}.")
    return {**DEFAULTS, **given}


def _is_access(value: Any) -> bool:
    return isinstance(value, str) and (value in ("staff", "superuser") or "." in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


#: By name: a function that checks a value, and a description of correct values.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "CONSUMERS": (("channels", "direct").__contains__, "'channels' or 'direct'"),
    "LIVE_ACCESS": (_is_access, "'staff', 'superuser' or the dotted path of a function that takes a user"),
    "LIVE_MAX_KEYS": (_is_count, "a number of keys from 1 on"),
}
