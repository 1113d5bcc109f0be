"""
The live page: what is in Redis for each layer of a site, and what this process does with it, while it happens.

    path("layers/", include("channels_redis_fast.live.urls")),          # urls.py
    path("layers/", URLRouter(live.routing.websocket_urlpatterns)),     # asgi.py; without it the page polls

``watch`` looks, once for all who watch; ``views`` and ``consumer`` hand out what it saw to those whom ``access`` lets
in. Read-only: nothing here writes to Redis, and nothing sends through a layer.
"""
