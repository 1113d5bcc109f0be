"""The suite on an installed wheel: `python -m tests.packaging.installed [--without-server] [pytest's arguments]`.

To be run where the tests are and the package's sources are not, since those would be imported in its place. It is what
`make wheel` does with each wheel, and cibuildwheel with those of other platforms. Knows nothing of how a wheel is made.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

import channels_redis_fast
from channels_redis_fast import hot

#: What is about the package itself; the rest of the suite is about servers, other versions and the benchmarks.
WITH_SERVER = ["tests/hot", "tests/both", "tests/core", "tests/pubsub", "tests/test_checks.py"]

#: The compiled modules beside their twins. Without tests/conftest.py, which imports uvloop and starts a server.
WITHOUT_SERVER = ["--confcutdir=tests/hot", "tests/hot"]


def check_installation() -> None:
    """Raise `SystemExit` unless the package comes from site-packages and runs compiled."""
    origin = Path(channels_redis_fast.__file__).resolve()
    if not origin.is_relative_to(Path(sysconfig.get_path("platlib")).resolve()):
        raise SystemExit(f"not the installed package: {origin}")
    # The modules are optional when a wheel is built, so one that fails to compile would pass unnoticed.
    if not hot.COMPILED:
        raise SystemExit("the wheel holds no compiled modules, or one of them cannot be imported")


def main(arguments: list[str]) -> int:
    check_installation()
    chosen = WITH_SERVER
    if "--without-server" in arguments:
        arguments = [argument for argument in arguments if argument != "--without-server"]
        chosen = WITHOUT_SERVER
    # The package is a plugin of pytest too, and is imported above: its asserts are not rewritten, nor need they be.
    # Hypothesis' own profile for CI: the same examples each time, and no complaint about a slow machine.
    options = ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", "--hypothesis-profile=ci"]
    return int(pytest.main([*options, *chosen, *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
