"""The venv in which upstream `channels_redis` runs, made when first asked for.

Upstream needs redis-py < 8 and we do not, so the two cannot share one. Knows pip and venv; knows nothing of layers.
`python -m bench.upstream` prints the path of its python.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-upstream"
# uvloop because `compare --loop uvloop` gives it to every contender, cryptography for the tests of a mixed fleet, and
# the servers and clients of `bench.sockets`.
REQUIREMENTS = (
    *("channels-redis==4.3.0", "redis<8", "hiredis", "cryptography", "uvloop"),
    *("uvicorn", "websockets>=15", "daphne", "granian", "picows"),
)


def ensure_python() -> Path:
    """The python of a venv with upstream: UPSTREAM_PYTHON when set, else `.venv-upstream`, made or renewed on need."""
    given = os.environ.get("UPSTREAM_PYTHON")
    if given:
        if not os.access(given, os.X_OK):
            raise RuntimeError(f"UPSTREAM_PYTHON is set, but {given} cannot be executed")
        return Path(given)
    python = VENV / "bin" / "python"
    stamp = VENV / "installed"
    wanted = "\n".join((sys.version, *REQUIREMENTS))
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making {VENV.name} for channels_redis 4.3 ...", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *REQUIREMENTS], check=True, stdout=sys.stderr)
    # Written last: an interrupted installation is started over.
    stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    print(ensure_python())
