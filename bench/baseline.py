"""Another state of this package, installed beside the running one, to be measured in the same run.

Knows git and pip, and nothing of layers. What is measured, and by which code, is always this checkout's `bench`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bench.upstream import ROOT

PACKAGE = "channels_redis_fast"
#: In a contender's environment: the directory from which it has to import the package.
DIRECTORY = "BENCH_PACKAGE_FROM"
INSTALLED = ROOT / ".venv-baselines"


class BaselineError(RuntimeError):
    """There is no such revision, or it cannot be installed."""


def ensure(name: str) -> Path:
    """
    The directory with the package of a git revision, or of a path: a checkout with its modules built, or what
    `pip install --target` made.

    A revision is built when first asked for, with the running python, and kept in `.venv-baselines`.
    """
    if (Path(name) / PACKAGE / "__init__.py").is_file():
        return Path(name).resolve()
    revision = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    target = INSTALLED / f"{revision[:12]}-{sys.implementation.cache_tag}"
    if not target.exists():
        print(f"building {name} ({revision[:12]}) ...", file=sys.stderr, flush=True)
        INSTALLED.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=INSTALLED) as made:
            _install(revision, Path(made))
            # Last: what an interrupted installation leaves is not taken for a whole one.
            (Path(made) / "installed").rename(target)
    return target


def has(directory: Path, module: str) -> bool:
    """Whether the package of a directory has a module: an older one may lack a whole layer."""
    path = directory.joinpath(*module.split("."))
    return (path / "__init__.py").is_file() or path.with_suffix(".py").is_file()


def _install(revision: str, directory: Path) -> None:
    archive, source = directory / "source.zip", directory / "source"
    _git("archive", "--format=zip", "--output", str(archive), revision)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    environment = {**os.environ, "CHANNELS_REDIS_FAST_PURE": "", "CHANNELS_REDIS_FAST_TRACE": ""}
    try:
        subprocess.run(
            [*pip, "--target", str(directory / "installed"), str(source)],
            check=True,
            stdout=sys.stderr,
            env=environment,
        )
    except subprocess.CalledProcessError as error:
        raise BaselineError(f"{revision} cannot be installed: pip ended with code {error.returncode}") from None


def _git(*words: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
    except FileNotFoundError:
        raise BaselineError(f"git {' '.join(words)} failed: there is no git") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise BaselineError(f"git {' '.join(words)} failed" + (f": {said}" if said else ""))
    return done.stdout


def use() -> None:
    """Import the package from where the environment says, if it does; called before anything of it is imported."""
    directory = os.environ.get(DIRECTORY)
    if not directory:
        return
    if directory not in sys.path:
        sys.path.insert(0, directory)
        # The finder of an editable install would give what only this checkout has: a mixture of both.
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
    import channels_redis_fast

    found = Path(channels_redis_fast.__file__).parent
    if found != Path(directory) / PACKAGE:
        raise BaselineError(f"{PACKAGE} of {directory} would not be measured: it was imported from {found}")
