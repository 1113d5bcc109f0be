"""Embedded servers, the benchmarks and the demo. Not part of the installed package.

Nothing in here is imported by `channels_redis_fast`; the tests use `bench.server` for their servers.
"""
