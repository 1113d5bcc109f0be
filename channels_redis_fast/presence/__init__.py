"""
Which processes live, and who is present.

``leases`` tells processes that live from those that are gone. Knows commands and keys; no layer, no message.
"""

from .leases import Lapse, LeaseReading, Leases

__all__ = ["Lapse", "LeaseReading", "Leases"]
