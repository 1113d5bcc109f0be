"""What was sent and what came: a plain list of each, in the order in which it happened. Knows no layer and no fault."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

ACKNOWLEDGED, RAISED, UNKNOWN = "acknowledged", "raised", "unknown"


@dataclass
class Send:
    """One call: the flow's `number`-th. It has to arrive at `places`; times are seconds since the round began."""

    flow: str
    number: int
    kind: str
    places: tuple[str, ...]
    begun: float
    ended: float | None = None
    #: UNKNOWN as long as the call has not ended, or when nobody heard how it ended.
    outcome: str = UNKNOWN
    error: str = ""


@dataclass(frozen=True)
class Receipt:
    """One message that came to a receiver at a place."""

    flow: str
    number: int
    place: str
    receiver: str
    at: float


@dataclass
class Record:
    sends: list[Send] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    #: Calls that did not end in time, places that no longer receive, and errors that are no matter of a connection.
    stuck: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    origin: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Seconds since the round began."""
        return time.monotonic() - self.origin

    def begin(self, flow: str, number: int, kind: str, places: Iterable[str]) -> Send:
        send = Send(flow, number, kind, tuple(places), self.now())
        self.sends.append(send)
        return send

    def end(self, send: Send, outcome: str, error: object = "") -> None:
        send.ended, send.outcome, send.error = self.now(), outcome, str(error)

    def take(self, message: dict[str, Any], place: str, receiver: str) -> None:
        self.receipts.append(Receipt(message["flow"], message["n"], place, receiver, self.now()))

    def missing(self) -> list[tuple[Send, str]]:
        """What was acknowledged and did not come, with the place where it did not come."""
        came = {(receipt.flow, receipt.number, receipt.place) for receipt in list(self.receipts)}
        return [
            (send, place)
            for send in list(self.sends)
            if send.outcome == ACKNOWLEDGED
            for place in send.places
            if (send.flow, send.number, place) not in came
        ]
