"""Opens sockets, sends requests and reads their replies, reconnects after a loss. Knows no channel and no message."""
