"""`tests/core/test_flush.py` on the in-memory layer."""

from tests.core.test_flush import *  # noqa: F403
