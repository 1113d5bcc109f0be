"""
Tools for tests: a fresh in-memory layer for each test, the messages that were sent, and waiting until they are handled.

The pytest plugin of this package (``pytest_plugin``) has the fixture ``channel_layer``. In Django's ``TestCase``, use
``memory_layer``, which the fixture uses too.
"""

from .capture import assert_group_sent, assert_sent, capture
from .communicator import communicator
from .layers import memory_layer
from .settling import settled

__all__ = ["assert_group_sent", "assert_sent", "capture", "communicator", "memory_layer", "settled"]
