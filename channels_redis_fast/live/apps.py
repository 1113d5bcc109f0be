"""The Django app of the live page. It has no models, no templates and no static files: the page brings its own."""

from __future__ import annotations

from django.apps import AppConfig

from .access import find_rule


class LiveConfig(AppConfig):  # type: ignore[misc]
    """The Django app. With ``django.contrib.admin``, its page is on the admin's index."""

    name = "channels_redis_fast.live"
    label = "channels_redis_fast_live"
    verbose_name = "Channel layers, live"

    def ready(self) -> None:
        """Check the rule now, not at the first visit. Raises ``ImproperlyConfigured`` if it cannot be imported."""
        find_rule()
