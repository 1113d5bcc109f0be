"""Where the compiled modules land. Their sources are in `_ext/` at the root; only `channels_redis_fast._hot` looks here."""
