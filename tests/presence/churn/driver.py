"""Runs rounds: processes with users, faults as planned, and after each what every process says of who is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any

from channels_redis_fast.presence.scripts import DOUBT
from tests.conftest import ROOT
from tests.faults.chaos.plan import Fault as ServerFault
from tests.faults.chaos.servers import Servers
from tests.presence.churn.checker import Event, Phase, check_events, check_presence, expected, is_seen
from tests.presence.churn.plan import (
    BY_OTHERS,
    LOSSY,
    OF_PROCESSES,
    OF_SERVERS,
    OWN,
    SETUPS,
    Action,
    Fault,
    Tab,
    Truth,
    User,
    choose_actions,
    choose_fault,
    users,
)

#: Seconds beyond lease and grace in which all processes have to agree; and what an answer may take.
MARGIN, ANSWER = 2.0, 30.0

#: Seconds between two looks at who is there.
LOOK = 0.1


@dataclass(frozen=True)
class Size:
    """Of a run. `share`: of the users that do something in a round."""

    processes: int = 6
    users: int = 300
    share: float = 0.2
    lease: float = 3.0
    grace: float = 1.0

    @property
    def limit(self) -> float:
        """Seconds after which everybody has to know."""
        return self.lease + self.grace + MARGIN


@dataclass
class Tally:
    """What came out of the rounds of one setup."""

    rounds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    #: Seconds until all processes agreed, of the slowest round.
    slowest: float = 0.0
    violations: list[str] = field(default_factory=list)


class Gone(Exception):
    """The process does not answer, since it has been killed."""


class Process:
    """The other end of `worker.py`."""

    def __init__(self, number: int, name: str, kind: str, options: dict[str, Any], loop: str) -> None:
        self.number = number
        self.name = name
        self.events: list[Event] = []
        #: By user, the kind of the last event that it has seen in earlier phases.
        self.heard: dict[User, str] = {}
        #: For how many seconds its lease had run out whenever it renewed one since the phase began.
        self.lapses: list[float] = []
        #: Who is there, as it has said last.
        self.told: frozenset[User] = frozenset()
        self._given = json.dumps({"kind": kind, "options": options, "loop": loop})
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self._ready = asyncio.get_running_loop().create_future()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115

    async def start(self) -> Process:
        arguments = ["-m", "tests.presence.churn.worker", self._given]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=pipe, stdout=pipe, stderr=self._errors, cwd=ROOT
        )
        self._reading = asyncio.ensure_future(self._read())
        await asyncio.wait_for(self._ready, ANSWER)
        return self

    async def ask(self, do: str, **order: Any) -> Any:
        """Give an order, and return the answer. Raises `Gone`, and `RuntimeError` for what the order raised."""
        self._asked += 1
        answer = self._answers[self._asked] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps({"id": self._asked, "do": do, **order}) + "\n").encode())
        return await asyncio.wait_for(answer, ANSWER)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading
        self._errors.close()

    def complaints(self) -> str:
        """The end of what it has written to stderr."""
        os.lseek(self._errors.fileno(), 0, os.SEEK_SET)
        return self._errors.read().decode(errors="replace")[-2000:]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "event" in said:
                self.events.append(Event(said["event"]["type"], said["event"].get("user")))
            elif "lapse" in said:
                self.lapses.append(said["lapse"])
            elif "ready" in said:
                self._ready.set_result(None)
            else:
                answer = self._answers.pop(said["id"])
                if answer.done():
                    continue
                if "error" in said:
                    answer.set_exception(RuntimeError(said["error"]))
                else:
                    answer.set_result(said["result"])
        for answer in (*self._answers.values(), self._ready):
            if not answer.done():
                answer.set_exception(Gone(self.name))


class Run:
    """Rounds of one setup on its servers, with one seed."""

    def __init__(self, setup: str, seed: int, size: Size, servers: Servers) -> None:
        self.tally = Tally()
        self.size = size
        self._kind, servers_kind = SETUPS[setup]
        self._chance = random.Random(f"{seed}/{setup}")
        self._servers = servers
        self._truth = Truth()
        self._everybody = users(size.users)
        self._names = (*OF_PROCESSES, *OF_SERVERS[servers_kind])
        self._options = {
            "hosts": servers.hosts,
            "prefix": f"churn{uuid.uuid4().hex[:12]}",
            "capacity": 100_000,
            "presence": {"lease": size.lease, "grace": size.grace, "events": True},
        }
        self._processes: list[Process] = []
        self._started = 0
        self._channels: dict[int, str] = {}
        #: Those that others have made leave, and whose consumers have not ended.
        self._to_end: list[Tab] = []
        #: What each user has done last, to be told with what is wrong.
        self._last: dict[User, Action] = {}
        #: Until when (monotonic) events may be marked as in doubt.
        self._in_doubt_until = float("-inf")

    async def __aenter__(self) -> Run:
        self._processes = [await self._start(number) for number in range(self.size.processes)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            if error is not None:
                print(f"{process.name}: {process.complaints()}", file=sys.stderr)
            await process.kill()

    async def _start(self, number: int) -> Process:
        self._started += 1
        loop = self._chance.choice(("asyncio", "uvloop"))
        return await Process(number, f"process{self._started}", self._kind, self._options, loop).start()

    # Rounds.

    async def fill(self) -> None:
        """Half of the users come."""
        truth, chance = self._truth, self._chance
        before = frozenset(truth.present())
        everywhere = range(self.size.processes)
        actions = choose_actions(chance, truth, self._everybody, everywhere, 0.5)
        await self._phase("fill", before, asyncio.ensure_future(self._act(actions, is_outage=False)))

    async def round(self, name: str | None = None) -> None:
        """One round, with a fault of this name or any."""
        self.tally.rounds += 1
        names = self._names if name is None else (name,)
        fault = choose_fault(self._chance, names, self.size.processes, self.size.lease)
        self.tally.counts[fault.name] += 1
        before = frozenset(self._truth.present())
        label = f"round {self.tally.rounds}, {fault.name}"
        hit = fault.number if fault.name in OF_PROCESSES[1:] else None
        others = [number for number in range(self.size.processes) if number != hit]
        kinds = OWN if fault.name in LOSSY else OWN + BY_OTHERS
        actions = choose_actions(self._chance, self._truth, self._everybody, others, self.size.share, kinds)
        on_server = fault.name not in OF_PROCESSES
        acting = asyncio.ensure_future(self._act(actions, is_outage=on_server))
        try:
            if on_server:
                await asyncio.sleep(fault.after)
                await self._servers.apply(
                    ServerFault(fault.after, fault.name.replace("cut", "kill"), fault.seconds, fault.number)
                )
                await self._phase(label, before, acting, may_lose=True)
                await self._servers.settle()
                self._in_doubt_until = time.monotonic() + DOUBT / 1000
            elif fault.name == "stop_long":
                await self._stop_long(fault, label, before, acting)
            elif fault.name == "stop_short":
                await self._stop_short(fault, label, before, acting)
            elif fault.name == "kill":
                await self._kill(fault, label, before, acting)
            else:
                await self._phase(label, before, acting)
            await self._end()
        finally:
            acting.cancel()

    async def _kill(self, fault: Fault, label: str, before: frozenset[User], acting: asyncio.Future[None]) -> None:
        await asyncio.sleep(fault.after)
        dead = self._processes[fault.number]
        await dead.kill()
        self._truth.close(self._truth.of_process(fault.number))
        await self._phase(label, before, acting, without=fault.number, excused=(dead.name,))
        self._processes[fault.number] = await self._start(fault.number)

    async def _stop_short(
        self, fault: Fault, label: str, before: frozenset[User], acting: asyncio.Future[None]
    ) -> None:
        await asyncio.sleep(fault.after)
        process = self._processes[fault.number]
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        process.signal(signal.SIGCONT)
        await self._phase(label, before, acting)

    async def _stop_long(self, fault: Fault, label: str, before: frozenset[User], acting: asyncio.Future[None]) -> None:
        await asyncio.sleep(fault.after)
        process = self._processes[fault.number]
        excused = (process.name,)
        process.signal(signal.SIGSTOP)
        try:
            await self._phase(f"{label}, stopped", before, acting, without=fault.number, excused=excused)
        finally:
            process.signal(signal.SIGCONT)
        between = frozenset(self._truth.present(without=fault.number))
        # Wait for what it was not told while it was stopped: a server that is restarted next would take that along.
        late = [(user, kind) for user, kind in expected(before, between).items() if process.heard.get(user) != kind]
        await self._phase(f"{label}, goes on", between, acting, excused=excused, late={process.name: late})

    async def _phase(
        self,
        label: str,
        before: frozenset[User],
        acting: asyncio.Future[None],
        may_lose: bool = False,
        without: int | None = None,
        excused: tuple[str, ...] = (),
        late: Mapping[str, Collection[tuple[User, str]]] = MappingProxyType({}),
    ) -> None:
        """Wait until everybody agrees on who is there, and see what observers were told meanwhile."""
        await acting
        begun = time.monotonic()
        after = frozenset(self._truth.present(without))
        asked = [process for process in self._processes if process.number != without]
        is_in_doubt = begun < self._in_doubt_until
        wrong: list[str] = []
        while True:
            told = await asyncio.gather(*(self._who_is_there(label, process, after) for process in asked))
            wrong = [sentence for sentences in told for sentence in sentences]
            seen = {process.name: process.events for process in self._processes}
            heard = {process.name: process.heard for process in self._processes}
            lapsed = set() if may_lose else self._lapsed(excused)
            phase = Phase(label, before, after, seen, may_lose, is_in_doubt, excused, heard, late, lapsed)
            passed = time.monotonic() - begun
            waits = any(not is_seen(phase, process.name) for process in asked)
            if (not wrong and not waits) or passed > self.size.limit:
                break
            await asyncio.sleep(LOOK)
        if wrong:
            strangers = {user for process in asked for user in process.told} ^ after
        else:
            strangers = set()
            self.tally.slowest = max(self.tally.slowest, passed)
        self.tally.counts["wrong"] += len(wrong)
        verdict = check_events(phase)
        about = sorted(strangers | verdict.about, key=str)[:5]
        wrong += [f"{label}: {user!r} did {self._last.get(user)}" for user in about]
        for process in self._processes:
            if verdict.violations and any(process.lapses):
                wrong.append(f"{label}: the lease of {process.name} had run out by {max(process.lapses):.1f} s")
            process.lapses = []
            process.heard.update((event.user, event.kind) for event in process.events)
            process.events = []
        self.tally.counts.update(verdict.counts)
        self.tally.violations += wrong + verdict.violations

    def _lapsed(self, excused: tuple[str, ...]) -> set[User]:
        """The users who have, or had, a channel in a process whose lease had run out, though nothing stopped it."""
        numbers = {process.number for process in self._processes if any(process.lapses) and process.name not in excused}
        moved = [tab for action in self._last.values() for tab in (*action.opened, *action.closed)]
        return {tab.user for tab in (*self._truth.tabs.values(), *moved) if tab.process in numbers}

    async def _who_is_there(self, label: str, process: Process, truth: frozenset[User]) -> list[str]:
        try:
            told, count = await process.ask("presence")
        except RuntimeError as error:
            return [f"{label}: {process.name}: {error}"]
        process.told = frozenset(told)
        return check_presence(label, process.name, told, count, truth)

    # What users do. While a server is away nobody can tell how long a user is between two pages, so the next one is
    # opened first. The consumers of those who were thrown out end when it was seen that they have not to, or at once
    # where a server may come back that does not know of it.

    async def _act(self, actions: list[Action], is_outage: bool) -> None:
        self._last |= {action.user: action for action in actions}
        await asyncio.gather(*(self._do(action, is_outage) for action in actions))
        self.tally.counts["actions"] += len(actions)

    async def _do(self, action: Action, is_outage: bool) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 0.5))
        if action.kind == "leave":
            await self._processes[action.process].ask("leave", user=action.user)
            self._to_end += action.closed
        elif action.kind == "kick":
            (tab,) = action.closed
            await self._processes[action.process].ask("kick", channel=self._channels[tab.number])
            self._to_end.append(tab)
        elif not is_outage:
            await self._close(action)
            await self._open(action)
        else:
            await self._open(action)
            await self._close(action)
        if is_outage:
            await self._end()

    async def _end(self) -> None:
        """The consumers of channels that others have made leave end."""
        tabs, self._to_end = self._to_end, []
        await asyncio.gather(*(self._at(tab).ask("close", tab=tab.number) for tab in tabs))

    async def _open(self, action: Action) -> None:
        for tab in action.opened:
            self._channels[tab.number] = await self._at(tab).ask("open", tab=tab.number, user=tab.user)

    async def _close(self, action: Action) -> None:
        for tab in action.closed:
            await self._at(tab).ask("close", tab=tab.number)

    def _at(self, tab: Tab) -> Process:
        return self._processes[tab.process]


COLUMNS = ("actions", "faults", "events", "missing", "told again", "lapsed", "extra", "wrong")


def table(tallies: dict[str, Tally]) -> str:
    """
    Markdown, a row for each setup.

    `missing` were lost with a server or a connection, or are violations, or were no news to an observer that had missed
    something before; `told again` came to observers that did not know yet who was there; `lapsed` were of users of a
    process whose lease had run out; `wrong` are answers that were not the truth in time; and last comes how long the
    slowest round took until everybody knew.
    """
    rows = [f"| setup | rounds | {' | '.join(COLUMNS)} | slowest, s | violations |"]
    rows.append("|---|" + "---:|" * (len(COLUMNS) + 3))
    for setup, tally in tallies.items():
        counts = Counter(tally.counts)
        counts["faults"] = tally.rounds - counts["none"]
        cells = [f"{counts[column]:,}" for column in COLUMNS]
        rows.append(
            f"| {setup} | {tally.rounds} | {' | '.join(cells)} | {tally.slowest:.1f} | {len(tally.violations)} |"
        )
    return "\n".join(rows)
