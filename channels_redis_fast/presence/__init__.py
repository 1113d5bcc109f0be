"""
Which processes are alive, and who is present.

``leases`` tells live processes from those that are gone. ``presences`` knows who is present: ``rules`` is the option,
``keys`` and ``scripts`` define what Redis holds, ``calls`` runs the scripts, ``events`` and ``outbox`` define and
deliver what groups are told. Knows commands and keys. Does not know a layer, or any messages but its own.
"""

from .events import FIELD, SeenEvents
from .leases import Lapse, LeaseReading, Leases
from .presences import Presences
from .rules import PresenceRules

__all__ = ["FIELD", "Lapse", "LeaseReading", "Leases", "PresenceRules", "Presences", "SeenEvents"]
