"""Calls from synchronous code: the I/O thread, the rule for which calls go through it, and `layer.sync`."""
