"""
``path("layers/", URLRouter(websocket_urlpatterns))``: the page's WebSocket, below the page's path.

Put it behind ``AuthMiddlewareStack``: without a user nobody gets access, and the page polls.
"""

from __future__ import annotations

from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path

from .consumer import LiveConsumer

#: The page of another site must not open the socket with its visitor's cookies.
websocket_urlpatterns = [path("socket/", AllowedHostsOriginValidator(LiveConsumer.as_asgi()))]
