"""Builds the compiled modules; everything else about the distribution is in pyproject.toml.

A machine without a C compiler still gets a working install: the modules are optional, and `channels_redis_fast._hot`
takes the pure twin when they are missing. `CHANNELS_REDIS_FAST_PURE=1` leaves them out on purpose.
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
    "waiters",
    "mailboxes",
    "batches",
)


def extensions() -> list[Extension]:
    """The compiled modules, none for a build that asks for pure Python."""
    if os.environ.get("CHANNELS_REDIS_FAST_PURE", "") not in ("", "0"):
        return []
    from Cython.Build import cythonize  # noqa: PLC0415 - a pure build works without Cython

    modules = cythonize(
        [Extension(f"channels_redis_fast._ext.{name}", [f"_ext/{name}.pyx"]) for name in MODULES],
        include_path=["."],
        build_dir="build/cython",
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
        },
    )
    for module in modules:
        # Here and not above: cythonize makes new extensions and does not pass this on.
        module.optional = True
    return list(modules)


setup(ext_modules=extensions())
