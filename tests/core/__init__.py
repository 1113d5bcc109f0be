"""The core layer: what it means, what it writes, and what it does when something goes wrong."""
