"""
The live page: what each layer of a site has in Redis, and what this process does with it, live.

    path("layers/", include("channels_redis_fast.live.urls")),          # urls.py
    path("layers/", URLRouter(live.routing.websocket_urlpatterns)),     # asgi.py; without it the page polls

``watch`` scans, once for all viewers; ``views`` and ``consumer`` pass the result to users that ``access`` permits.
Read-only: nothing here writes to Redis or sends through a layer.
"""
