"""Fuzzing: `python -m tests.fuzz [TARGET|all] [SECONDS] [--keep] [--blind]`, which `make fuzz` calls.

Builds the compiled modules with AddressSanitizer, UndefinedBehaviorSanitizer and coverage, and lets the engine run each
target for so many seconds, starting from the kept inputs. Ends with status 1, and names the input, when something was
found. `--keep` replaces the bred inputs in `tests/corpus/` by those of this run.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.build import build, environment, fuzzer_runtime
from tests.fuzz.mutate import MESSAGES

TARGETS = tuple(sorted(path.stem for path in corpus.KEPT.glob("*.txt")))
# Bytes of an input: beyond the stack buffer of the compiled modules, and what a Source makes of few is much.
LONGEST = 4096


def run(tree: Path, kind: str, target: str, *arguments: str) -> int:
    """Run the engine in the built copy; return its exit status."""
    command = [sys.executable, "-m", "tests.fuzz.engine", target, *arguments]
    return subprocess.run(
        command, cwd=tree, env=environment(tree, kind, mutator=target in MESSAGES), check=False
    ).returncode


def fuzz(tree: Path, kind: str, target: str, seconds: int, keep: bool) -> bool:
    """Fuzz one target; return whether nothing was found."""
    inputs, found = (tree / name / target for name in ("inputs", "found"))
    for directory in (inputs, found):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    corpus.unpack(target, inputs)
    print(f"== {target}: {seconds} s", flush=True)
    status = run(
        tree,
        kind,
        target,
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={found}/",
        "-rss_limit_mb=3072",
        "-timeout=60",
        "-print_final_stats=1",
        "-detect_leaks=0",
        # Not a line for every input that is new.
        "-verbosity=0",
        str(inputs),
    )
    if status:
        print(f"== {target}: FAILED; the input is in {found}. Keep it: python -m tests.fuzz.corpus add {target} FILE")
        return False
    if keep and kind == "fuzz":
        print(f"== {target}: {corpus.keep(target, [path.read_bytes() for path in inputs.iterdir()])} inputs kept")
    print(f"== {target}: clean", flush=True)
    return True


def main() -> None:
    """What the module's docstring says."""
    parser = argparse.ArgumentParser(description="Fuzz the compiled modules against the pure ones.")
    parser.add_argument("target", nargs="?", default="all", choices=["all", *TARGETS])
    parser.add_argument("seconds", nargs="?", default=60, type=int)
    parser.add_argument("--keep", action="store_true", help="keep the inputs that reach the most")
    parser.add_argument("--blind", action="store_true", help="as where atheris is not installed")
    given = parser.parse_args()
    kind = "fuzz" if fuzzer_runtime() and not given.blind else "sanitize"
    tree = build(kind)
    targets = TARGETS if given.target == "all" else (given.target,)
    clean = [fuzz(tree, kind, target, given.seconds, given.keep) for target in targets]
    sys.exit(not all(clean))


if __name__ == "__main__":
    main()
