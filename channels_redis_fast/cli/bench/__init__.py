"""`channels-redis-fast bench`."""
