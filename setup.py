"""Builds the compiled modules; everything else about the distribution is in pyproject.toml.

A machine without a C compiler still gets a working install: the modules are optional, and `channels_redis_fast.hot`
takes the pure twin when they are missing. `CHANNELS_REDIS_FAST_PURE=1` leaves them out on purpose, and
`CHANNELS_REDIS_FAST_TRACE=1` has them tell coverage.py of each of their lines, many times slower.
"""

import os

from setuptools import Extension, setup

MODULES = (
    "names",
    "capacity",
    "packer",
    "unpacker",
    "envelope",
    "codec",
    "pipeline",
    "histograms",
    "waiters",
    "mailboxes",
    "batches",
)


def is_set(variable: str) -> bool:
    """Whether an environment variable is set, to anything but "" and "0"."""
    return os.environ.get(variable, "") not in ("", "0")


def extensions() -> list[Extension]:
    """The compiled modules, none for a build that asks for pure Python."""
    if is_set("CHANNELS_REDIS_FAST_PURE"):
        return []
    traced = is_set("CHANNELS_REDIS_FAST_TRACE")
    from Cython.Build import cythonize  # noqa: PLC0415 - a pure build works without Cython

    modules = cythonize(
        [Extension(f"channels_redis_fast._ext.{name}", [f"_ext/{name}.pyx"]) for name in MODULES],
        include_path=["."],
        # Cython's plugin for coverage.py looks for the C code beside its source.
        build_dir=None if traced else "build/cython",
        compiler_directives={
            "language_level": 3,
            # Annotations are documentation here; they must not turn into coercions.
            "annotation_typing": False,
            # Plain C functions: the interpreter calls those with the least ceremony. The signature stays readable.
            "binding": False,
            # Nobody pickles these; what Cython writes for it trusts whatever it is given back, and crashes.
            "auto_pickle": False,
            "embedsignature": True,
            "embedsignature.format": "clinic",
            "linetrace": traced,
        },
    )
    for module in modules:
        # Here and not above: cythonize makes new extensions and does not pass this on.
        module.optional = True
        if traced:
            module.define_macros.append(("CYTHON_TRACE_NOGIL", "1"))
    return list(modules)


setup(ext_modules=extensions())
