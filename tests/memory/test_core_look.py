"""`tests/core/test_look.py` on the in-memory layer."""

from tests.core.test_look import *  # noqa: F403
