"""Print the path of a server's binary, as `bench.server` finds it: `python -m tests.packaging.server_binary NAME`."""

from __future__ import annotations

import sys

from bench.server import ServerError, require_binary


def main(name: str) -> None:
    """Raise `SystemExit` where there is no such server."""
    try:
        print(require_binary(name))
    except ServerError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
