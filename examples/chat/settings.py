"""Settings of the example. Nothing here needs a database: what is said in a room is in the room's history."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent

SECRET_KEY = "an example that serves this machine alone"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "django.contrib.staticfiles",
    "channels",
    "channels_redis_fast",
    "channels_redis_fast.live",
]
ROOT_URLCONF = "examples.chat.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [HERE / "templates"]}]
STATIC_URL = "/static/"
STATICFILES_DIRS = [HERE / "static"]
USE_TZ = True

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis_fast.core.RedisChannelLayer",
        "CONFIG": {
            "hosts": [os.environ.get("REDIS_URL", "redis://localhost:6379")],
            "prefix": os.environ.get("CHAT_PREFIX", "chat"),
            # A room keeps its last 500 messages for an hour: for those who come, and those who come back.
            "history": {"room.*": {"size": 500, "ttl": 3600}},
            # Who is in a room, and who came and went; a page that is loaded anew within 3 s has not gone.
            "presence": {"lease": 10, "grace": 3, "events": True},
        },
    }
}

CHANNELS_REDIS_FAST = {
    "CONSUMERS": "direct",
    # Staff alone, if it were left out. This site has no users, and serves this machine alone.
    "LIVE_ACCESS": "examples.chat.views.anybody",
}
