"""As a site has them: one layer, of the kind, server and prefix that the test names."""

from __future__ import annotations

import os

SECRET_KEY = "for tests"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = ["channels", "channels_redis_fast", "django.contrib.contenttypes", "django.contrib.auth"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": os.environ["SITE_BACKEND"],
        "CONFIG": {
            "hosts": [{"address": os.environ["SITE_URL"], "client_name": os.environ["SITE_PREFIX"]}],
            "prefix": os.environ["SITE_PREFIX"],
        },
    },
}
