"""
Keeps the last messages of groups in Redis for clients that were away: one stream per group, for layers with
``history``.

The script that reads the group's members also records the message, which carries its ``position`` from then on. A
client that comes back asks for everything after the last position that it has seen, and learns whether the result is
complete.

``positions`` defines the text of a position and the key of a stream; ``retention`` is the option; ``scripts`` is the
Lua code; ``streams`` records and reads for a layer, and ``reading`` interprets what was read. Knows nothing of
receivers and subscriptions.
"""

from .positions import FIELD
from .reading import Asked, History
from .streams import Histories, Stream

__all__ = ["FIELD", "Asked", "Histories", "History", "Stream"]
