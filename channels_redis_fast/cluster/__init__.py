"""The topology of a Redis Cluster, and an ordered queue of requests for each slot. Knows no layer."""
