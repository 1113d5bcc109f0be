"""Messages to bytes and back, and the mailboxes in which they wait for a receiver. Knows no socket."""
