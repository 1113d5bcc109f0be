"""`tests/history/test_core_resume.py` on the in-memory layer."""

from tests.history.test_core_resume import *  # noqa: F403
