"""A site that has the live page and nothing else."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("layers/", include("channels_redis_fast.live.urls"))]
