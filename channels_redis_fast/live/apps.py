"""The Django app of the live page. It has no models, no templates and no static files: the page brings its own."""

from __future__ import annotations

from django.apps import AppConfig

from .access import find_rule


class LiveConfig(AppConfig):  # type: ignore[misc]
    """The Django app; with ``django.contrib.admin`` its page is on the admin's index."""

    name = "channels_redis_fast.live"
    label = "channels_redis_fast_live"
    verbose_name = "Channel layers, live"

    def ready(self) -> None:
        """Raise ``ImproperlyConfigured`` for a rule that cannot be imported now, and not when somebody looks."""
        find_rule()
