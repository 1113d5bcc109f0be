"""What `tests/both/test_flush.py` says of a layer that has nothing in Redis, on the in-memory layer."""

from tests.both.test_flush import test_a_receive_that_waits_survives_flush, test_closing_what_was_never_opened

__all__ = ["test_a_receive_that_waits_survives_flush", "test_closing_what_was_never_opened"]
