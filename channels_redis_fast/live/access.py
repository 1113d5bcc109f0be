"""Who may see the live page: the rule of ``CHANNELS_REDIS_FAST["LIVE_ACCESS"]``, for requests and for sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..apps import read_settings


def may_look(user: Any) -> bool:
    """
    Return whether a user may view the page. ``user``: as set by authentication; None if the site has no authentication.

    A rule of the site's own may query the database, so call this in a thread that may do so.
    """
    return bool(find_rule()(user))


def find_rule() -> Callable[[Any], Any]:
    """Return the active rule. Raises ``ImproperlyConfigured`` if it cannot be imported."""
    named = read_settings()["LIVE_ACCESS"]
    if named in _RULES:
        return _RULES[named]
    try:
        rule: Callable[[Any], Any] = import_string(named)
    except ImportError as error:
        raise ImproperlyConfigured(f"CHANNELS_REDIS_FAST['LIVE_ACCESS']: {error}") from error
    return rule


def _is_staff(user: Any) -> bool:
    return bool(getattr(user, "is_active", False) and getattr(user, "is_staff", False))


def _is_superuser(user: Any) -> bool:
    return bool(getattr(user, "is_active", False) and getattr(user, "is_superuser", False))


_RULES = {"staff": _is_staff, "superuser": _is_superuser}
