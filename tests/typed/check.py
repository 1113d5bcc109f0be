"""The installed package as a type checker sees it from outside: `python -m tests.typed.check`, where mypy is.

`mypy --strict` has to take sample/right.py, and of sample/wrong.py it has to refuse exactly the lines that say so.
stubtest holds the annotations against the running package, which is how the declarations that the pure twin gives for
the compiled modules are kept true; `--sample-only` leaves that out, for where there are stubs of Channels, which differ
from Channels in places. Knows nothing of what the layers do.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from channels_redis_fast import _ext, hot

HERE = Path(__file__).resolve().parent
#: Packages that have no type information, for those who have not installed stubs for them.
CONFIG = """[mypy]
[mypy-channels.*,django.*,msgpack.*]
ignore_missing_imports = True
"""
REPORTED = re.compile(r"^(?P<path>.+?):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]$")
EXPECTED = re.compile(r"# error: (?P<code>[\w-]+)$")
#: What stubtest says of every coroutine behind a decorator: it compares the parameters, and loses the `async`.
BEHIND_A_DECORATOR = 'is an "async def" function at runtime, but not in the stub'

Place = tuple[str, int, str]


def expected_errors() -> set[Place]:
    """File, line and kind of each error that a sample says it has."""
    found = set()
    for path in (HERE / "sample").glob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            said = EXPECTED.search(line)
            if said:
                found.add((path.name, number, said["code"]))
    return found


def reported_errors(directory: Path, config: Path) -> set[Place]:
    """The same of what mypy says. Raises ``SystemExit`` for errors anywhere else, and when mypy fails."""
    command = [sys.executable, "-m", "mypy", "--strict", "--hide-error-context", "--no-pretty", "--no-incremental"]
    said = subprocess.run(
        [*command, "--config-file", str(config), str(HERE / "sample")],
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
    )
    found = set()
    for line in said.stdout.splitlines():
        error = REPORTED.match(line)
        if error:
            path = Path(error["path"])
            if path.parent.name != "sample":
                raise SystemExit(f"an error outside the sample: {line}")
            found.add((path.name, int(error["line"]), error["code"]))
    if said.returncode not in (0, 1) or not found:
        raise SystemExit(f"mypy failed:\n{said.stdout}{said.stderr}")
    return found


def differences(directory: Path, config: Path) -> list[str]:
    """What stubtest finds, a line each, but for what stubtest.txt allows. Raises ``SystemExit`` when it fails."""
    command = [sys.executable, "-m", "mypy.stubtest", "channels_redis_fast", "--concise"]
    command += ["--mypy-config-file", str(config), "--allowlist", str(HERE / "stubtest.txt")]
    said = subprocess.run(
        [*command, "--ignore-unused-allowlist"], cwd=directory, check=False, capture_output=True, text=True
    )
    lines = [line for line in said.stdout.splitlines() if line]
    if said.returncode not in (0, 1) or (said.returncode and not lines):
        raise SystemExit(f"stubtest failed:\n{said.stdout}{said.stderr}")
    return [line for line in lines if not line.endswith(BEHIND_A_DECORATOR)] if said.returncode else []


def untyped_functions() -> list[str]:
    """What the compiled modules define, `hot` does not pass on, and so nothing types."""
    missing = []
    for entry in pkgutil.iter_modules(_ext.__path__):
        module = importlib.import_module(f"{_ext.__name__}.{entry.name}")
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            error = inspect.isclass(value) and issubclass(value, Exception)
            if own and not error and not name.startswith("_") and name not in hot.__all__:
                missing.append(f"{module.__name__}.{name}")
    return missing


def main() -> None:
    if not hot.COMPILED:
        raise SystemExit("nothing is compiled, so there is nothing to hold the annotations against")
    missing = untyped_functions()
    if missing:
        raise SystemExit(f"not typed, since hot does not name them: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "mypy.ini"
        config.write_text(CONFIG, encoding="utf-8")
        expected, reported = expected_errors(), reported_errors(Path(directory), config)
        for path, line, code in sorted(reported - expected):
            print(f"{path}:{line}: mypy reports [{code}], which the sample does not say")
        for path, line, code in sorted(expected - reported):
            print(f"{path}:{line}: mypy does not report [{code}]")
        if expected != reported:
            raise SystemExit(1)
        print(f"mypy --strict: the sample is as it says, {len(expected)} errors among it", flush=True)
        if "--sample-only" in sys.argv[1:]:
            return
        wrong = differences(Path(directory), config)
        if wrong:
            raise SystemExit("\n".join(["stubtest:", *wrong]))
        print("stubtest: the annotations are those of the running package")


if __name__ == "__main__":
    main()
