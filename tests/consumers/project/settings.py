"""Settings of the site for processes of their own. What differs from test to test comes with the environment."""

from __future__ import annotations

import json
import os

SECRET_KEY = "for tests"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["channels", "channels_redis_fast"]
ROOT_URLCONF = "tests.consumers.project.urls"
ASGI_APPLICATION = "tests.consumers.project.asgi.application"
USE_TZ = True
CHANNEL_LAYERS = json.loads(os.environ["SITE_CHANNEL_LAYERS"])
CHANNELS_REDIS_FAST = {"CONSUMERS": os.environ.get("SITE_CONSUMERS", "channels")}
