"""Calls from synchronous code: the I/O thread, which calls go through it, and `layer.sync`."""
