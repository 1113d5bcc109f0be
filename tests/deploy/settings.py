"""Settings of the site of these tests."""

from tests.consumers.project.settings import *  # noqa: F403

ASGI_APPLICATION = "tests.deploy.site.application"
LOGGING = {
    "version": 1,
    "handlers": {"log": {"class": "logging.StreamHandler"}},
    "loggers": {"channels_redis_fast": {"level": "INFO", "handlers": ["log"]}},
}
