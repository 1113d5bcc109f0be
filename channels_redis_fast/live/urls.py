"""``path("layers/", include("channels_redis_fast.live.urls"))``: the page, its files, and the data that it polls."""

from __future__ import annotations

from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from . import views

app_name = "channels_redis_fast_live"

urlpatterns = [
    path("", require_safe(never_cache(views.page)), name="page"),
    path("frame/", require_safe(never_cache(views.frame)), name="frame"),
    path("<str:name>", require_safe(views.asset), name="asset"),
]
