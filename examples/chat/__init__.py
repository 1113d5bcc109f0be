"""A chat in a few files: rooms, who is online, who types, and messages that survive a lost connection."""
