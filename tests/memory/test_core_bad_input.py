"""`tests/core/test_bad_input.py` on the in-memory layer."""

from tests.core.test_bad_input import *  # noqa: F403
