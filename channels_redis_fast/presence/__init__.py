"""
Which processes live, and who is present.

``leases`` tells processes that live from those that are gone. ``presences`` knows who is present: ``rules`` is the
option, ``keys`` and ``scripts`` what Redis holds, ``calls`` the way there, ``events`` and ``outbox`` what groups are
told. Knows commands and keys; no layer, and no message but its own.
"""

from .events import FIELD, SeenEvents
from .leases import Lapse, LeaseReading, Leases
from .presences import Presences
from .rules import PresenceRules

__all__ = ["FIELD", "Lapse", "LeaseReading", "Leases", "PresenceRules", "Presences", "SeenEvents"]
