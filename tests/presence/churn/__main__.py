"""`python -m tests.presence.churn [--seconds S] [--seed N] [--setup NAME]...`, which `make presence` calls.

Ends with status 1 when somebody was there who is gone, or the other way round, or was told of wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from django.conf import settings

from tests.faults.chaos.servers import Servers, Unsettled
from tests.presence.churn.driver import Run, Size, Tally, table
from tests.presence.churn.plan import SETUPS


async def run(setup: str, seed: int, size: Size, seconds: float, servers: Servers, fault: str | None) -> Tally:
    deadline = time.monotonic() + seconds
    async with Run(setup, seed, size, servers) as running:
        await running.fill()
        try:
            while time.monotonic() < deadline:
                before = len(running.tally.violations)
                await running.round(fault)
                for violation in running.tally.violations[before:][:10]:
                    print(f"VIOLATION: SEED={seed} SETUP={setup}, {violation}", flush=True)
        except Unsettled as error:
            # It says nothing of the layers.
            print(f"ended early: SEED={seed} SETUP={setup}: {error}", flush=True)
        return running.tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.presence.churn", description="Who is there, under faults.")
    parser.add_argument("--seconds", type=float, default=600.0, help="of all setups together")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--setup", action="append", choices=["all", *SETUPS])
    parser.add_argument("--fault", help="this one in each round")
    parser.add_argument("--processes", type=int, default=Size.processes)
    parser.add_argument("--users", type=int, default=Size.users)
    options = parser.parse_args()
    names = list(SETUPS) if not options.setup or "all" in options.setup else options.setup
    settings.configure(SECRET_KEY="for tests", CHANNEL_LAYERS={})
    size = Size(options.processes, options.users)
    print(f"seed {options.seed}, {size}", flush=True)
    tallies: dict[str, Tally] = {}
    for name in names:
        with Servers(SETUPS[name][1]) as servers:
            seconds = options.seconds / len(names)
            tallies[name] = asyncio.run(run(name, options.seed, size, seconds, servers, options.fault))
        print(table({name: tallies[name]}).splitlines()[-1], flush=True)
    print(table(tallies))
    return int(any(tally.violations for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
