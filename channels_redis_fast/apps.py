"""Registers the system checks of ``checks`` where ``channels_redis_fast`` is in INSTALLED_APPS. Does nothing else."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

from .checks import check_layers


class ChannelsRedisFastConfig(AppConfig):  # type: ignore[misc]
    """The Django app; it has no models."""

    name = "channels_redis_fast"
    verbose_name = "Channel layers on Redis"

    def ready(self) -> None:
        """Have ``manage.py check`` look at CHANNEL_LAYERS."""
        register(check_layers)
