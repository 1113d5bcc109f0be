"""A copy of the tree whose compiled modules carry sanitizers: `python -m tests.fuzz.build sanitize` (or `fuzz`).

It knows compilers and their runtimes; not what is run in the copy. The installed package is left as it is.
`environment` is what a process needs that imports the copy: the runtimes come first in it, and Python takes its memory
from the same `malloc` as everybody, or the sanitizer would not see where an object ends.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("channels_redis_fast", "_ext", "tests", "bench", "setup.py")
# Leaks are not asked for: the interpreter itself ends with memory in its hands.
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer"
# Said last, after what the interpreter was built with; -UNDEBUG is for the assertions in its headers.
OTHERS = "-O1 -g -UNDEBUG"
COVERAGE = "-fsanitize-coverage=trace-pc,trace-cmp"
ASAN_OPTIONS = "detect_leaks=0:quarantine_size_mb=64:allocator_may_return_null=1:verify_asan_link_order=0"
UBSAN_OPTIONS = "print_stacktrace=1:halt_on_error=1"


def compiler() -> list[str]:
    """The C compiler that Python's extensions are built with, or that of CC."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def runtime(name: str) -> str:
    """The path of a sanitizer's runtime. Raises SystemExit if the compiler has none."""
    path = subprocess.run(
        [*compiler(), f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not os.path.isabs(path):
        raise SystemExit(f"{compiler()[0]} has no {name}: on Debian and Ubuntu it comes with gcc")
    return os.path.realpath(path)


def fuzzer_runtime() -> Path | None:
    """The path of the runtime of atheris that is AddressSanitizer and libFuzzer in one, None without atheris."""
    found = importlib.util.find_spec("atheris")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parents[1] / "asan_with_fuzzer.so"
    return path if path.exists() else None


def fill(tree: Path) -> None:
    """Bring the copy up to date; what was built there stays, to be built again only where it is too old."""
    for name in COPIED:
        source, target = ROOT / name, tree / name
        if source.is_file():
            shutil.copy2(source, target)
            continue
        for old in target.rglob("*"):
            if old.is_file() and old.suffix != ".so":
                old.unlink()
        shutil.copytree(
            source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so", "__pycache__", "results")
        )


def build(kind: str) -> Path:
    """Build the copy for `sanitize` or `fuzz`; return its path. Raises SystemExit if it could not be built."""
    tree = ROOT / "build" / kind
    tree.mkdir(parents=True, exist_ok=True)
    fill(tree)
    (tree / "pyproject.toml").unlink(missing_ok=True)
    flags = f"{SANITIZERS} {COVERAGE}" if kind == "fuzz" else SANITIZERS
    environment = {
        **os.environ,
        # Not CFLAGS: what is linked must not name a runtime, for the process that imports the modules has one already.
        "CC": f"{shlex.join(compiler())} {flags}",
        "LDSHARED": f"{shlex.join(compiler())} -shared",
        "CFLAGS": OTHERS,
        "CHANNELS_REDIS_FAST_PURE": "",
    }
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # The modules are optional for setup.py, not here; one that is left from before is none.
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nthe compiled modules could not be built with sanitizers")
    for source in sorted((tree / "_ext").glob("*.pyx")):
        built = module_path(tree, source.stem)
        if not built.exists() or b"__asan_init" not in built.read_bytes():
            raise SystemExit(f"{done.stdout}\n{source.name} was not built with sanitizers")
    # Only now: setup.py says all that matters here, and what pyproject.toml says of the rest needs a new setuptools.
    shutil.copy2(ROOT / "pyproject.toml", tree)
    if kind == "fuzz":
        subprocess.run(
            [*compiler(), "-O2", "-shared", "-fPIC", "-o", tree / "cover.so", tree / "tests" / "fuzz" / "cover.c"],
            check=True,
        )
    return tree


def module_path(tree: Path, name: str) -> Path:
    return tree / "channels_redis_fast" / "_ext" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"


def environment(tree: Path, kind: str, *, mutator: bool = False) -> dict[str, str]:
    """The environment of a process that works in the copy; with `mutator`, one in which atheris is given a mutator."""
    preloaded: list[object]
    engine = fuzzer_runtime()
    if kind == "fuzz" and engine is not None:
        # First: libFuzzer has a function of the same name, which only says that it is of no use.
        preloaded = [tree / "cover.so", engine]
        # libFuzzer looks but once whether there is a mutator, and that is before atheris is imported.
        preloaded += (engine.parent / "atheris").glob("custom_mutator.*.so") if mutator else ()
    else:
        preloaded = [runtime("libasan.so"), runtime("libubsan.so")]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(map(str, preloaded)),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(tree),
        "CHANNELS_REDIS_FAST_PURE": "",
        # atheris' runtime knows no symbols; the suite of `make sanitize` plays the input back with gcc's, which does.
        "ASAN_OPTIONS": ASAN_OPTIONS + (":symbolize=0" if kind == "fuzz" else ""),
        "UBSAN_OPTIONS": UBSAN_OPTIONS,
    }


if __name__ == "__main__":
    print(build(sys.argv[1]))
