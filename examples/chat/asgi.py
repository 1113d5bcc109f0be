"""The site as servers load it: `uvicorn examples.chat.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "examples.chat.settings")
# Sets Django up, which what follows needs.
views = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from django.urls import path  # noqa: E402

from channels_redis_fast.live.routing import websocket_urlpatterns as live  # noqa: E402

from .consumers import Room  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": ASGIStaticFilesHandler(views),
        "websocket": AllowedHostsOriginValidator(
            URLRouter([path("room/<slug:room>/", Room.as_asgi()), path("layers/", URLRouter(live))])
        ),
    }
)
