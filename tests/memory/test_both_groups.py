"""`tests/both/test_groups.py` on the in-memory layer."""

from tests.both.test_groups import *  # noqa: F403
