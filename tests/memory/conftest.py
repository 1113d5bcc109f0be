"""The core layer's own tests on the in-memory layer: what they ask of a server is skipped by name.

The modules `test_core_*` and `test_both_*` import the tests of other folders; the fixtures here give them this layer.
What are several processes there is one here, so all layers of a test are one and the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from channels_redis_fast.memory import InMemoryChannelLayer
from tests.both.conftest import channel_of
from tests.core.conftest import new_loop

__all__ = ["channel_of", "new_loop"]

SERVER = "looks at what is in Redis, or writes there"
KEYS = "the specific channels of a process share a Redis key"
PROCESSES = "there is no second process"
SHARDS = "there are no shards"
SOCKETS = "there are no connections"
SUBCLASS = "a subclass of the core layer"

#: Tests of other folders that mean nothing here, and why.
SKIPPED = {
    "test_several_receivers_of_one_channel_are_served_in_turn": SERVER,
    "test_new_channel_names": PROCESSES,
    "test_a_specific_channel_of_another_process_cannot_be_received_on": PROCESSES,
    "test_what_has_expired_in_redis_is_not_received": SERVER,
    "test_the_text_of_a_layer_has_hosts_and_no_password": SOCKETS,
    "test_a_membership_ends_after_group_expiry": SERVER,
    "test_a_member_that_is_no_text_is_skipped_and_logged": SERVER,
    "test_a_full_key_counts_once_whatever_the_number_of_its_members": KEYS,
    "test_capacity_is_that_of_the_first_member_on_the_key": KEYS,
    "test_a_group_of_thousands_of_keys": SERVER,
    "test_an_error_of_a_custom_serializer": SUBCLASS,
    "test_what_cannot_be_decoded_is_logged_skipped_and_counted": SERVER,
    "test_rubbish_ends_no_wait": SERVER,
    "test_a_key_of_another_type_is_an_error_and_no_end": SERVER,
    "test_flush_removes_messages_and_groups_of_all_shards": SHARDS,
    "test_flush_leaves_what_is_not_its_own": SERVER,
    "test_close_pools_closes_every_socket": SOCKETS,
    "test_members_whose_time_is_over_do_not_count": SERVER,
    "test_the_limit_of_a_membership_is_that_of_group_send": SERVER,
    "test_a_member_that_is_no_text_is_left_out": SERVER,
    "test_groups_are_looked_for_on_their_shard": SHARDS,
    "test_what_waits_on_a_general_channel": SHARDS,
    "test_specific_channels_of_one_kind_share_their_depth": KEYS,
    "test_what_upstream_put_on_another_shard_counts": SHARDS,
    "test_what_has_expired_does_not_count": SERVER,
    "test_messages_expire_by_the_clock_that_stamped_them": SERVER,
    "test_the_clock_of_this_process_where_the_server_tells_no_time": SERVER,
    "test_a_layer_with_rules_of_its_own": SUBCLASS,
    "test_a_server_that_is_not_there": SERVER,
    "test_however_many_ask_it_is_one_connection": SOCKETS,
    "test_what_was_missed": SERVER,
    "test_membership_is_that_of_group_add": SERVER,
    "test_arguments": "one layer has both histories and none",
    "test_something_else_where_the_stream_was": SERVER,
    "test_entries_that_are_gone": SERVER,
    "test_it_expires_when_nothing_happens": SERVER,
    "test_a_server_that_restarts": SERVER,
    "test_a_channel_that_resumed_is_restored": SERVER,
    "test_a_failover_by_sentinels": SERVER,
    "test_a_replica_that_had_not_heard_of_everything": SERVER,
    "test_a_failover_of_a_cluster": SERVER,
    "test_a_slot_that_moves": SERVER,
    "test_a_server_that_does_not_say_who_it_is": SERVER,
    "test_a_server_is_asked_once_who_it_is": SERVER,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        reason = SKIPPED.get(getattr(item, "originalname", ""))
        if reason is not None and item.path.parent == here and item.path.name.startswith(("test_core_", "test_both_")):
            item.add_marker(pytest.mark.skip(reason=f"in memory: {reason}"))


@pytest.fixture
def kind() -> str:
    """Which layer this is, of those of tests/both."""
    return "core"


@pytest.fixture
def layers() -> list[InMemoryChannelLayer]:
    """The layer of a test, once there is one."""
    return []


@pytest.fixture
def make_layer(layers: list[InMemoryChannelLayer]) -> Callable[..., InMemoryChannelLayer]:
    """Make the layer of a test, or give it new capacities."""

    def make(**options: Any) -> InMemoryChannelLayer:
        options.pop("hosts", None)
        if not layers:
            layers.append(InMemoryChannelLayer(**options))
        for name in {"capacity", "channel_capacity"} & options.keys():
            setattr(layers[0], name, options[name])
        return layers[0]

    return make


@pytest.fixture
def make_core(make_layer: Callable[..., InMemoryChannelLayer]) -> Callable[..., InMemoryChannelLayer]:
    return make_layer


@pytest.fixture
def layer() -> InMemoryChannelLayer:
    """A layer whose loops the tests make and close."""
    return InMemoryChannelLayer(capacity=10_000)


class Contents:
    """What a test sees of the layer where it would look into Redis."""

    def __init__(self, layers: list[InMemoryChannelLayer]) -> None:
        self._layers = layers

    def scan_iter(self, match: str, count: int = 0) -> list[bytes]:
        """Whatever there is."""
        return [name.encode() for layer in self._layers for name in (*layer.channels, *layer.groups)]

    def client_list(self) -> list[Any]:
        """Connections."""
        return []


@pytest.fixture
def raw(layers: list[InMemoryChannelLayer]) -> Contents:
    return Contents(layers)


@pytest.fixture
def prefix() -> str:
    return "asgi"
