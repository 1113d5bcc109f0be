"""
What one layer has in Redis, as ``inspect`` and the live page show it. Read-only, within a budget.

``picture`` takes the picture of a layer, ``snapshot`` is its data, ``servers`` provides the connections. Nothing here
renders output, and nothing knows who asks.
"""
