"""
What is in Redis for one layer, as ``inspect`` and the live page show it: read within a budget, and read-only.

``picture`` takes the picture of a layer, ``snapshot`` is its data, ``servers`` provides the connections. Nothing here
draws, and nothing knows who asks.
"""
