"""The suites of other projects, on `channels_redis` and on this package, side by side: `make drop-in`."""
