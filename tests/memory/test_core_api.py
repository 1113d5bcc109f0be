"""`tests/core/test_api.py` on the in-memory layer."""

from tests.core.test_api import *  # noqa: F403
