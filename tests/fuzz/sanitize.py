"""The suite on modules with sanitizers: `python -m tests.fuzz.sanitize [ARGUMENT ...]`, which `make sanitize` calls.

Without arguments, all tests that need no server; arguments go to pytest instead of that choice. An error of memory, or
undefined behaviour, ends the process with a report of where it was.
"""

from __future__ import annotations

import subprocess
import sys

from tests.fuzz.build import build, environment

SERVERLESS = (
    "-p",
    "tests.fuzz.serverless",
    "tests/hot",
    "tests/both",
    "tests/core",
    "tests/pubsub",
    "tests/test_checks.py",
)
# Everything takes its time here; what is measured is not what was built.
GENEROUS = ("--timeout=900", "-p", "no:cacheprovider", "-p", "no:xdist")
PROOF = """
import ctypes, channels_redis_fast
from channels_redis_fast import hot
assert hot.COMPILED, "not compiled"
assert hasattr(ctypes.CDLL(None), "__asan_report_load1"), "no AddressSanitizer"
print("sanitized:", channels_redis_fast.__file__)
"""


def main() -> int:
    """Build, make sure that it is what it should be, and run; return pytest's exit status."""
    tree = build("sanitize")
    settings = environment(tree, "sanitize")
    subprocess.run([sys.executable, "-c", PROOF], cwd=tree, env=settings, check=True)
    command = [sys.executable, "-m", "pytest", *GENEROUS, *(sys.argv[1:] or SERVERLESS)]
    return subprocess.run(command, cwd=tree, env=settings, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
