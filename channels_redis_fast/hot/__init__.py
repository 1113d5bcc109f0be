"""The one place that chooses the hot path: the compiled modules, or the pure twin.

The compiled modules are used unless `CHANNELS_REDIS_FAST_PURE` is set (to anything but "" and "0") or one of them
cannot be imported. There is never a mixture, so `COMPILED` tells everything. Type checkers see the twin, whose
signatures declare both.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

__all__ = [
    "COMPILED",
    "FINGERPRINT",
    "ORDERED_FROM",
    "Batch",
    "CapacityTable",
    "EnvelopeCodec",
    "Gate",
    "Gatherer",
    "Histogram",
    "KeyBatch",
    "Lock",
    "Mailbox",
    "MailboxTable",
    "PublishCommands",
    "PublishGatherer",
    "StoredMessage",
    "Waiter",
    "Waker",
    "are_strings",
    "assemble",
    "clone",
    "decode",
    "encode",
    "find",
    "fingerprints",
    "footprint",
    "frames",
    "is_group",
    "key",
    "kind",
    "next_prefix",
    "pack",
    "payload_size",
    "reseed",
    "round_trip",
    "shard",
    "splice",
    "split",
]

COMPILED: bool = os.environ.get("CHANNELS_REDIS_FAST_PURE", "") in ("", "0")

if COMPILED and not TYPE_CHECKING:
    try:
        from channels_redis_fast._ext.batches import Batch, Gatherer, KeyBatch, PublishCommands, PublishGatherer
        from channels_redis_fast._ext.capacity import CapacityTable
        from channels_redis_fast._ext.codec import EnvelopeCodec
        from channels_redis_fast._ext.envelope import (
            FINGERPRINT,
            ORDERED_FROM,
            clone,
            decode,
            encode,
            fingerprints,
            footprint,
            frames,
            next_prefix,
            pack,
            reseed,
            round_trip,
            splice,
        )
        from channels_redis_fast._ext.histograms import Histogram
        from channels_redis_fast._ext.mailboxes import Lock, Mailbox, MailboxTable, StoredMessage
        from channels_redis_fast._ext.names import find, is_group, key, kind, shard, split
        from channels_redis_fast._ext.pipeline import are_strings, assemble, payload_size
        from channels_redis_fast._ext.waiters import Gate, Waiter, Waker
    except ImportError:
        COMPILED = False

if TYPE_CHECKING or not COMPILED:
    from channels_redis_fast.hot.batches import Batch, Gatherer, KeyBatch, PublishCommands, PublishGatherer
    from channels_redis_fast.hot.capacity import CapacityTable
    from channels_redis_fast.hot.codec import EnvelopeCodec
    from channels_redis_fast.hot.envelope import (
        FINGERPRINT,
        ORDERED_FROM,
        clone,
        decode,
        encode,
        fingerprints,
        footprint,
        frames,
        next_prefix,
        pack,
        reseed,
        round_trip,
        splice,
    )
    from channels_redis_fast.hot.histograms import Histogram
    from channels_redis_fast.hot.mailboxes import Lock, Mailbox, MailboxTable, StoredMessage
    from channels_redis_fast.hot.names import find, is_group, key, kind, shard, split
    from channels_redis_fast.hot.pipeline import are_strings, assemble, payload_size
    from channels_redis_fast.hot.waiters import Gate, Waiter, Waker
