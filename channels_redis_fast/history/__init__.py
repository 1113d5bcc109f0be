"""
What was sent to a group, kept in Redis for those who were away: one stream for each group, for layers with ``history``.

A message is recorded by the script that looks at the group's members, and carries its ``position`` from then on. Who
comes back asks for what came behind the last position that it has seen, and is told whether that is all.

``positions`` is how a position reads, and the name of a stream's key; ``retention`` the option; ``scripts`` what Lua
does to a stream; ``streams`` records and reads on behalf of a layer, and ``reading`` says what was found. Knows nothing
of receivers and subscriptions.
"""

from .positions import FIELD
from .reading import Asked, History
from .streams import Histories, Stream

__all__ = ["FIELD", "Asked", "Histories", "History", "Stream"]
