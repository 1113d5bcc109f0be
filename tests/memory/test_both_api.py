"""`tests/both/test_api.py` on the in-memory layer."""

from tests.both.test_api import *  # noqa: F403
