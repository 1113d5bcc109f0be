"""Tests of where and how a layer connects: TLS, ACLs, unix sockets, Sentinels, and each redis-py."""
