"""`tests/core/test_groups.py` on the in-memory layer."""

from tests.core.test_groups import *  # noqa: F403
