"""
A link to the live page on the admin's index and in its sidebar.

``django.contrib.admin`` imports it itself: it looks for this module in each app. For an ``AdminSite`` of your own, call
``link_from(site)``.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from .access import may_look


def link_from(site: admin.AdminSite) -> None:
    """Make an admin site list the live page, for users who may view it, if the site's URLs include it."""
    listed = site.get_app_list

    def get_app_list(request: HttpRequest, app_label: str | None = None) -> list[dict[str, Any]]:
        apps: list[dict[str, Any]] = listed(request, app_label) if app_label else listed(request)
        link = None if app_label else _entry(request)
        return apps if link is None else [*apps, link]

    site.get_app_list = get_app_list


def _entry(request: HttpRequest) -> dict[str, Any] | None:
    """Return an app with one model, as ``AdminSite.get_app_list`` lists them; None if there is no page to link to."""
    try:
        url = reverse("channels_redis_fast_live:page")
    except NoReverseMatch:
        return None
    if not may_look(getattr(request, "user", None)):
        return None
    model = {
        "name": "Live page",
        "object_name": "LivePage",
        "admin_url": url,
        "add_url": None,
        # Without it, the admin would offer to change something.
        "view_only": True,
        "perms": {"add": False, "change": False, "delete": False, "view": True},
    }
    return {
        "name": "Channel layers",
        "app_label": "channels_redis_fast_live",
        "app_url": url,
        "has_module_perms": True,
        "models": [model],
    }


link_from(admin.site)
