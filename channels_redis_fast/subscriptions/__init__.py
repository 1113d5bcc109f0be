"""Subscriptions of one event loop, on a server or a cluster, kept in line with what is wanted. Knows no layer."""
