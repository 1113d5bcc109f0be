"""`tests/both/test_look.py` on the in-memory layer."""

from tests.both.test_look import *  # noqa: F403
