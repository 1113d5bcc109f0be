"""Tests on Redis Clusters."""
