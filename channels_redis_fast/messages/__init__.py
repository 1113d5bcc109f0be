"""Converts messages to bytes and back; the mailboxes in which they wait for a receiver. Knows no socket."""
