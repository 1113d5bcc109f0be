"""
The end of a process that serves a site, and its workers: ``drain_on_sigterm`` for ``asgi.py``, and the worker that the
management command ``channels_worker`` runs. Works with any channel layer; only those of this package can be drained.
"""

from __future__ import annotations

from .application import DrainedApplication, drain_on_sigterm
from .worker import Worker

__all__ = ["DrainedApplication", "Worker", "drain_on_sigterm"]
