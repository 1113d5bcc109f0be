"""Compares a record with what the rules allow: lost, duplicated, reordered, stuck, strange. Knows no layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.faults.chaos.record import ACKNOWLEDGED, Receipt, Record, Send
from tests.faults.chaos.rules import Allowance


@dataclass
class Verdict:
    """How many of each there were, allowed or not, and a line for each that was not allowed."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    #: Flow, number and place of what the violations are about: whose traces are worth printing.
    about: list[tuple[str, int, str]] = field(default_factory=list)

    def blame(self, what: str, flow: str, number: int, place: str) -> None:
        self.violations.append(f"{what}: {flow} {number} at {place}")
        self.about.append((flow, number, place))


def check(record: Record, allowance: Allowance) -> Verdict:
    verdict = Verdict()
    sends = {(send.flow, send.number): send for send in record.sends}
    verdict.counts["sends"] = len(sends)
    verdict.counts["acknowledged"] = sum(send.outcome == ACKNOWLEDGED for send in record.sends)
    verdict.counts["received"] = len(record.receipts)
    _check_losses(record, allowance, verdict)
    _check_repeats(record, allowance, sends, verdict)
    _check_order(record, allowance, sends, verdict)
    verdict.counts["stuck"] = len(record.stuck)
    verdict.violations += [f"stuck: {what}" for what in record.stuck]
    verdict.violations += [f"error: {what}" for what in record.errors]
    return verdict


def _check_losses(record: Record, allowance: Allowance, verdict: Verdict) -> None:
    missing = record.missing()
    verdict.counts["lost"] = len(missing)
    counted = [
        (send, place)
        for send, place in missing
        if not allowance.may_lose(send.kind, send.begun, send.begun if send.ended is None else send.ended)
    ]
    # What is for several members of a process is one message in Redis, so one connection may take it from all of them.
    messages = {(send.flow, send.number) for send, _ in counted}
    # Where something is stuck, what is missing was not waited for: that it is stuck says enough.
    if len(messages) > allowance.lost_with_connections and not record.stuck:
        for send, place in counted:
            verdict.blame(f"lost (at most {allowance.lost_with_connections} may be)", send.flow, send.number, place)


def _check_repeats(record: Record, allowance: Allowance, sends: dict[tuple[str, int], Send], verdict: Verdict) -> None:
    came = Counter((receipt.flow, receipt.number, receipt.place) for receipt in record.receipts)
    for (flow, number, place), count in came.items():
        send = sends.get((flow, number))
        if send is None or place not in send.places:
            verdict.blame("never sent there", flow, number, place)
        elif count > 1:
            verdict.counts["duplicated"] += count - 1
            if not allowance.may_repeat(send.kind):
                verdict.blame(f"came {count} times", flow, number, place)


def _check_order(record: Record, allowance: Allowance, sends: dict[tuple[str, int], Send], verdict: Verdict) -> None:
    highest: dict[tuple[str, str, str], int] = {}
    seen: set[tuple[str, int, str]] = set()
    for receipt in record.receipts:
        send = sends.get((receipt.flow, receipt.number))
        key = receipt.flow, receipt.number, receipt.place
        # One that comes again is a duplicate, not out of order too.
        if send is None or send.outcome != ACKNOWLEDGED or key in seen:
            continue
        seen.add(key)
        way = receipt.flow, receipt.place, receipt.receiver
        if receipt.number < highest.get(way, -1) and allowance.is_ordered(send.kind):
            verdict.counts["reordered"] += 1
            verdict.blame(f"came after {highest[way]}", *key)
        highest[way] = max(highest.get(way, -1), receipt.number)


def trace(record: Record, flow: str, number: int, place: str, around: int = 2) -> list[str]:
    """What is known of a message and of its neighbours in the flow, by time."""
    lines: list[tuple[float, str]] = []
    for send in record.sends:
        if send.flow == flow and abs(send.number - number) <= around:
            ended = "never" if send.ended is None else f"{send.ended:.3f}"
            lines.append((send.begun, f"sent {send.number}, {send.outcome} at {ended} {send.error}".rstrip()))
    lines += [
        (receipt.at, _came(receipt)) for receipt in record.receipts if _is_near(receipt, flow, number, place, around)
    ]
    return [f"  {at:8.3f} {text}" for at, text in sorted(lines)]


def _is_near(receipt: Receipt, flow: str, number: int, place: str, around: int) -> bool:
    return (receipt.flow, receipt.place) == (flow, place) and abs(receipt.number - number) <= around


def _came(receipt: Receipt) -> str:
    return f"came {receipt.number} to {receipt.receiver} at {receipt.place}"
