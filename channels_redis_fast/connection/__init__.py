"""Sockets: opening them, requests and their replies, reconnecting after a loss. Knows no channel and no message."""
