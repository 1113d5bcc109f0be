"""One site under jitter: a server, clients that lose their connections, and this process, which sends to their room.

Run with the python of the venv that holds the layer; prints one line of JSON. Knows nothing of other contenders.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
import uuid
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from typing import Any

from bench.contender import add_layer_arguments, close_layer, make_layer, run, versions
from bench.dispatch import ROOM, frame
from bench.server import HOST
from bench.sockets import cpu_of, site
from bench.workloads import SETTLE, WAIT, percentile

# Seconds that whatever is still on its way gets, when everybody is connected again.
REST = 3.0


def count(sent: Sequence[float], arrivals: list[list[list[float]]]) -> dict[str, Any]:
    """
    What became of the messages. `sent`: when each was sent; `arrivals`: of each client, number, time and the time at
    which the client had begun to connect.

    Latencies are in seconds: of all messages from the call of `group_send`; and of those that were sent while their
    client was away, from the moment at which it began to connect again.
    """
    delivered = repeated = disordered = 0
    latencies: list[float] = []
    missed: list[float] = []
    for client in arrivals:
        seen: set[int] = set()
        last = -1
        for number, at, began in client:
            whole = int(number)
            if whole in seen:
                repeated += 1
                continue
            seen.add(whole)
            disordered += whole < last
            last = max(last, whole)
            latencies.append(at - sent[whole])
            if sent[whole] < began:
                missed.append(at - began)
        delivered += len(seen)
    expected = len(sent) * len(arrivals)
    found: dict[str, Any] = {
        "expected": expected,
        "delivered": delivered,
        "percent": 100 * delivered / expected,
        "repeated": repeated,
        "disordered": disordered,
        "recovered": len(missed),
    }
    for name, times in (("", latencies), ("recovered_", missed)):
        for share in (50, 99):
            found[f"{name}p{share}_ms"] = percentile(times, share / 100) * 1e3 if times else None
    return found


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The server inherits it; upstream needs a connection to Redis for each socket too.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    prefix = f"bench{uuid.uuid4().hex[:8]}"
    layer = make_layer(arguments.layer, arguments.url, prefix)
    context = {"layer": arguments.layer, "url": arguments.url[0], "prefix": prefix}
    sent: list[float] = []
    try:
        async with site("uvicorn", context, arguments.loop) as (server, port):
            command = [sys.executable, "-m", "bench.flaky", "--url", f"ws://{HOST}:{port}/"]
            for name in ("clients", "every", "away"):
                command += [f"--{name}", str(getattr(arguments, name))]
            # The result is one long line.
            clients = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=1 << 28)
            assert clients.stdin is not None
            assert clients.stdout is not None
            try:
                # They are connected.
                await asyncio.wait_for(clients.stdout.readline(), 3 * WAIT)
                # Upstream's Pub/Sub layer does not wait for its subscriptions.
                await asyncio.sleep(SETTLE)
                before = cpu_of(server.pid)
                began = time.monotonic()
                for number in range(arguments.messages):
                    await asyncio.sleep(max(0.0, began + number / arguments.rate - time.monotonic()))
                    sent.append(time.monotonic())
                    await layer.group_send(ROOM, frame(number))
                clients.stdin.write(b"stop\n")
                await asyncio.sleep(arguments.away + REST)
                spent = cpu_of(server.pid) - before
                clients.stdin.close()
                line = await asyncio.wait_for(clients.stdout.readline(), 3 * WAIT)
            finally:
                if clients.returncode is None:
                    clients.kill()
                await clients.wait()
    finally:
        await asyncio.wait_for(close_layer(layer), 30)
    found = json.loads(line)
    return {
        **count(sent, found.pop("arrivals")),
        **{name: found[name] for name in ("cuts", "lost", "refused")},
        "server_cpu_seconds": spent,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_layer_arguments(parser)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="messages per second")
    parser.add_argument("--every", type=float, required=True, help="seconds from cut to cut, on the average")
    parser.add_argument("--away", type=float, required=True, help="seconds that a client stays away")
    arguments = parser.parse_args()
    print(json.dumps({"layer": arguments.layer, **run(measure(arguments), arguments.loop), "versions": versions()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
