"""The pages of the site."""

from django.urls import include, path

from . import views

urlpatterns = [
    path("", views.lobby),
    path("room/<slug:room>/", views.room),
    path("layers/", include("channels_redis_fast.live.urls")),
]
