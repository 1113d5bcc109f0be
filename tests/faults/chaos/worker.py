"""A process that takes jobs of a general channel and says which: `python -m tests.faults.chaos.worker JSON`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

from redis.exceptions import ConnectionError

from channels_redis_fast.core import RedisChannelLayer
from tests.faults.chaos.record import Record


async def work(options: dict[str, Any], channel: str) -> None:
    layer = RedisChannelLayer(**options)
    while True:
        try:
            message = await layer.receive(channel)
        except ConnectionError:
            # A server that could never be reached is not waited for. Whoever keeps the process up starts it again.
            await asyncio.sleep(0.1)
            continue
        # In one write: whoever stops this process finds all or nothing.
        os.write(1, (json.dumps(message) + "\n").encode())


@contextlib.asynccontextmanager
async def worker(options: dict[str, Any], channel: str, place: str, name: str, record: Record) -> AsyncIterator[int]:
    """Start such a process, whose receipts go into the record; gives its process id."""
    arguments = ["-m", "tests.faults.chaos.worker", json.dumps(options), channel]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            record.take(json.loads(line), place, name)

    reading = asyncio.ensure_future(read())
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()
        await reading


if __name__ == "__main__":
    asyncio.run(work(json.loads(sys.argv[1]), sys.argv[2]))
