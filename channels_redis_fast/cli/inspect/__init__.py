"""`channels-redis-fast inspect`."""
