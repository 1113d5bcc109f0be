"""`python -m tests.faults.chaos [--seconds S] [--seed N] [--setup NAME]... [--round K]`, which `make chaos` calls.

Ends with status 1 when the rules were broken. `--round` runs that one alone: the same plan, whatever comes of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack

from django.conf import settings

from tests.faults.chaos.driver import Tally, add, report, run_round, table
from tests.faults.chaos.plan import SETUPS, make_plan
from tests.faults.chaos.servers import Servers, Unsettled


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description="Random faults, checked.")
    parser.add_argument("--seconds", type=float, default=600.0, help="of all setups together")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--setup", action="append", choices=["all", *SETUPS])
    parser.add_argument("--round", type=int)
    options = parser.parse_args()
    names = list(SETUPS) if not options.setup or "all" in options.setup else options.setup
    settings.configure(SECRET_KEY="for tests", CHANNEL_LAYERS={})
    tallies: dict[str, Tally] = {}
    print(f"seed {options.seed}", flush=True)
    for name in names:
        tally = tallies[name] = Tally()
        deadline = time.monotonic() + options.seconds / len(names)
        with ExitStack() as stack:
            running: dict[str, Servers] = {}
            number = options.round or 0
            while (options.round is None and time.monotonic() < deadline) or number == (options.round or 0):
                plan = make_plan(options.seed, name, number)
                number += 1
                if plan.servers not in running:
                    running[plan.servers] = stack.enter_context(Servers(plan.servers))
                try:
                    record, verdict, faults = run_round(plan, running[plan.servers])
                except Unsettled as error:
                    # It says nothing of the layers; the next round has new servers.
                    print(f"left out: SEED={plan.seed} SETUP={name}, round {plan.round}: {error}", flush=True)
                    del running[plan.servers]
                    continue
                add(tally, plan, verdict, faults)
                if verdict.violations:
                    print(report(plan, record, verdict, faults), flush=True)
        print(table({name: tally}).splitlines()[-1], flush=True)
    print(table(tallies))
    return int(any(tally.violated for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
