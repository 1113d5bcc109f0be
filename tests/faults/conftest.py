"""What the tests of faults are given: layers of both kinds, and the fixtures of the layers' own tests."""

from __future__ import annotations

from tests.core.conftest import long_answers, new_loop, soon_again
from tests.core.conftest import make_layer as make_core
from tests.pubsub.conftest import make_layer as make_pubsub
from tests.pubsub.conftest import shard_urls, sharded

# `make_core` and `make_pubsub` make layers on the shared server, unless told otherwise, and close them afterwards.
# `shard_urls` are two servers: databases of one are no shards to Pub/Sub.
__all__ = ["long_answers", "make_core", "make_pubsub", "new_loop", "shard_urls", "sharded", "soon_again"]
