"""Subscriptions of one event loop, on a server or a cluster, kept equal to what is wanted. Knows no layer."""
