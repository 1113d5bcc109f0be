"""What the core layer's tests say of several event loops and threads, on the in-memory layer."""

from tests.both.test_loops import test_async_to_sync_from_a_thread_of_a_running_loop, test_loops_at_once
from tests.core.test_loops import (
    test_async_to_sync,
    test_asyncio_run_twice,
    test_loops_one_after_another,
    test_one_channel_received_in_several_threads,
)
from tests.core.test_standing_still import (
    test_a_receiver_of_a_loop_that_stands_still_takes_nothing,
    test_messages_for_a_stopped_loop_stay_in_redis,
    test_the_first_in_line_is_served_first,
    threads,
)

__all__ = [
    "test_a_receiver_of_a_loop_that_stands_still_takes_nothing",
    "test_async_to_sync",
    "test_async_to_sync_from_a_thread_of_a_running_loop",
    "test_asyncio_run_twice",
    "test_loops_at_once",
    "test_loops_one_after_another",
    "test_messages_for_a_stopped_loop_stay_in_redis",
    "test_one_channel_received_in_several_threads",
    "test_the_first_in_line_is_served_first",
    "threads",
]
