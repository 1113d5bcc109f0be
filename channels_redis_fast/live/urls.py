"""``path("layers/", include("channels_redis_fast.live.urls"))``: the page, its files, and what it asks for."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "channels_redis_fast_live"

urlpatterns = [
    path("", views.page, name="page"),
    path("frame/", views.frame, name="frame"),
    path("<str:name>", views.asset, name="asset"),
]
