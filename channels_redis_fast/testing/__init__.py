"""
What tests need: a fresh in-memory layer for each, what was sent meanwhile, and when all of it has been handled.

The pytest plugin of this package (``pytest_plugin``) has the fixture ``channel_layer``. Django's ``TestCase`` uses
``memory_layer``, which is what the fixture is made of.
"""

from .capture import assert_group_sent, assert_sent, capture
from .communicator import communicator
from .layers import memory_layer
from .settling import settled

__all__ = ["assert_group_sent", "assert_sent", "capture", "communicator", "memory_layer", "settled"]
