"""Errors that say which message they are about."""

from __future__ import annotations


def say_where(error: Exception, where: str, what: str = "message") -> None:
    """Add to a serializer's error where the message was going; its type and the rest stay."""
    place = f"{what} for {where}"
    if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)):
        error.reason = f"{error.reason} ({place})"
    elif len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]} ({place})",)
    else:
        error.args = (*error.args, place)
