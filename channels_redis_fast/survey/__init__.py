"""
What is in Redis for one layer, as ``inspect`` and the live page show it: looked at within a budget, and read-only.

``picture`` takes the picture of a layer, ``snapshot`` is its data, ``servers`` gives connections to look through.
Nothing here draws, and nothing knows who asks.
"""
