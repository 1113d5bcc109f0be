"""A site with an admin and the live page."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("layers/", include("channels_redis_fast.live.urls")),
]
