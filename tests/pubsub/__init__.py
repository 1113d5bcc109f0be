"""The Pub/Sub layer, against real servers."""
