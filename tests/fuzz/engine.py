"""Runs one target on made-up inputs: `python -m tests.fuzz.engine TARGET [OPTION ...] DIRECTORY`, libFuzzer's options.

With atheris inputs are bred by the code they reach, compiled and pure; without it, hypothesis makes them up blindly. It
knows engines; not what a target does. Started by `python -m tests.fuzz`, in the built copy.
"""

from __future__ import annotations

import fnmatch
import os
import random
import sys
import time
import warnings
from functools import lru_cache
from pathlib import Path

import channels_redis_fast
from tests.fuzz.mutate import MESSAGES, mutated


def prepare() -> None:
    """Make globs cheap: the same one is the same expression each time, which `re` then knows, and none is warned of."""
    fnmatch.translate = lru_cache(4096)(fnmatch.translate)
    # Python's own `re` has an opinion about some ("[[", "--") that are globs all the same.
    warnings.simplefilter("ignore", FutureWarning)


def run_atheris(name: str, options: list[str]) -> None:
    """Let libFuzzer breed; ends the process, with status 0 if nothing was found."""
    import atheris

    with atheris.instrument_imports(include=["channels_redis_fast"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        # Half of the time a message stays one, the other half bytes are bytes.
        if seed & 1:
            return mutated(data, random.Random(seed))[:size]
        return atheris.Mutate(data, size)

    shaped = {"custom_mutator": mutate} if name in MESSAGES else {}
    atheris.Setup([name, *options], TARGETS[name], **shaped)
    atheris.Fuzz()


def run_hypothesis(name: str, options: list[str]) -> None:
    """Try the kept inputs, changes of them and hypothesis' own bytes until the time is over."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    from tests.fuzz.targets import TARGETS

    said = dict(option[1:].split("=") for option in options if option.startswith("-"))
    end = time.monotonic() + int(said["max_total_time"])
    target = TARGETS[name]
    seeds = [path.read_bytes() for path in sorted(Path(options[-1]).iterdir())] or [b""]
    tries = 0
    inputs = st.one_of(
        st.sampled_from(seeds),
        st.binary(max_size=int(said["max_len"])),
        st.builds(mutated, st.sampled_from(seeds), st.randoms(use_true_random=True)),
    )

    @settings(
        max_examples=1000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(inputs)
    def some(data: bytes) -> None:
        nonlocal tries
        if time.monotonic() < end:
            target(data)
            tries += 1

    for seed in seeds:
        target(seed)
    while time.monotonic() < end:
        some()
    print(f"Done {tries + len(seeds)} runs, blindly: atheris is not installed")


def main(name: str, *options: str) -> None:
    """Check that what is fuzzed is what was built for it, and go."""
    tree = Path(os.environ["PYTHONPATH"])
    if not Path(channels_redis_fast.__file__).is_relative_to(tree):
        raise SystemExit(f"not the built copy: {channels_redis_fast.__file__}")
    prepare()
    engine = run_atheris if "asan_with_fuzzer" in os.environ["LD_PRELOAD"] else run_hypothesis
    engine(name, list(options))


if __name__ == "__main__":
    main(*sys.argv[1:])
