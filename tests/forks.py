"""Forking as C code does it, such as uWSGI: no hook of Python's runs."""

from __future__ import annotations

import ctypes
import sys
import time


def fork_in_c() -> int:
    """
    Fork; return the child's process id, 0 in the child.

    A thread that asks for the interpreter's lock at the moment of such a fork is not there to take it, and the child
    waits for it for ever, whatever it runs. A server forks when its threads are at rest; here they ask later.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    try:
        # Those that have asked get it now.
        time.sleep(0.1)
        # PyDLL holds the lock meanwhile, as a server that embeds Python does.
        return int(ctypes.PyDLL(None).fork())
    finally:
        sys.setswitchinterval(interval)
