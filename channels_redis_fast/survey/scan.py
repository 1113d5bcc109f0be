"""
Iterates over the keys of a prefix without overloading the server: SCAN in steps, up to a limit.

Knows how keys are found. Does not know what they mean.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from redis.exceptions import ResponseError

from ..cluster.flush import literal
from .line import Line

#: How many keys one SCAN step examines: about 0.1 ms of the server's time.
STEP = 500

#: How many keys of the database are examined on each shard unless an option says otherwise.
MAX_KEYS = 100_000

#: How many keys one round trip asks about.
BATCH = 100


class Sweep:
    """
    One pass over the keys of one shard that begin with ``prefix``. It examines at most ``max_keys`` of the database.

    ``examined`` counts the examined keys, including foreign ones; ``is_complete`` tells whether all were examined.
    """

    def __init__(self, line: Line, prefix: str, max_keys: int = MAX_KEYS) -> None:
        self._line = line
        self._pattern = literal(prefix.encode()) + b"*"
        self._max_keys = max_keys
        self.examined = 0
        self.is_complete = False
        #: Why there are no keys, if the server refused.
        self.refused: ResponseError | None = None

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """
        Yield the keys in lists of at most ``BATCH``, each key once.

        Raises ``redis.exceptions.ConnectionError`` naming the host.
        """
        cursor = b"0"
        seen: set[bytes] = set()
        while True:
            step = min(STEP, self._max_keys - self.examined)
            (reply,) = await self._line.ask((b"SCAN", cursor, b"MATCH", self._pattern, b"COUNT", step))
            if isinstance(reply, ResponseError):
                self.refused = reply
                return
            cursor, found = reply
            self.examined += step
            # SCAN may name a key again, in a later step or in the same one.
            keys = [key for key in dict.fromkeys(found) if key not in seen]
            seen.update(keys)
            for start in range(0, len(keys), BATCH):
                yield keys[start : start + BATCH]
            if cursor == b"0":
                self.is_complete = True
                return
            if self.examined >= self._max_keys:
                return
