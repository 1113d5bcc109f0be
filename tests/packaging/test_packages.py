"""The sdist and the wheels of the directory that PACKAGES names, which `make wheel` and CI build.

No list of modules is kept here: what a wheel has to hold follows from what the sdist holds.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.archives import Sdist, Wheel
from tests.packaging.project import ROOT, pythons
from tests.packaging.test_config import FREE_THREADED, PLATFORMS

DIRECTORY = os.environ.get("PACKAGES")

pytestmark = pytest.mark.skipif(not DIRECTORY, reason="PACKAGES names no directory with an sdist and wheels")

WHEELS = [Wheel(path) for path in sorted(Path(DIRECTORY).glob("*.whl"))] if DIRECTORY else []
TWO_MEGABYTES = 2_000_000

#: What a Linux wheel may ask the system for; everything else would have to be in it.
LIBRARIES = {"libc.so.6", "libm.so.6", "libpthread.so.0", "libgcc_s.so.1"}

#: Symbols without a version that come from the compiler and its runtime, and not from Python.
OF_THE_COMPILER = ("__gmon_start__", "_ITM_", "__cxa_finalize")


@pytest.fixture(scope="module")
def sdist() -> Sdist:
    (path,) = Path(str(DIRECTORY)).glob("*.tar.gz")
    return Sdist(path)


@pytest.fixture(params=WHEELS, ids=[wheel.path.name for wheel in WHEELS])
def wheel(request: pytest.FixtureRequest) -> Wheel:
    assert isinstance(request.param, Wheel)
    return request.param


# The sdist.


def test_the_sdist_has_one_directory_of_its_own_name(sdist: Sdist) -> None:
    assert sdist.tops == {sdist.path.name.removesuffix(".tar.gz")}


def test_the_sdist_has_all_sources_and_nothing_that_is_made(sdist: Sdist) -> None:
    """Everything that the tree has: what the package is built from, and what its tests need."""
    kept = {"_ext": "*.p*", "bench": "*.py", "channels_redis_fast": "*.p*", "docs": "*.md", "tests": "*.*"}
    kept |= {"channels_redis_fast/live/page": "*.*", "contrib": "*.*", "examples": "*.*"}
    sources = {".c", ".css", ".html", ".js", ".json", ".md", ".pxd", ".py", ".pyx", ".txt", ".typed", ".yaml", ".yml"}
    in_tree = {
        str(path.relative_to(ROOT).as_posix())
        for directory, pattern in kept.items()
        for path in (ROOT / directory).rglob(pattern)
        if path.suffix in sources
    }
    assert in_tree, "no tree to compare with"
    assert in_tree - sdist.files == set()
    single = {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "cibuildwheel.toml", "pyproject.toml", "setup.py"}
    single |= {"CODE_OF_CONDUCT.md", "SECURITY.md"}
    assert single - sdist.files == set()
    # C that is written by hand is in tests alone; what Cython writes of its modules is beside them.
    made = re.compile(
        r"^(?!tests/).*\.c$|^_ext/.*\.html$|\.(so|pyd|pyc)$|(^|/)(\.[^/]*|__pycache__|results|build)/|^site/"
    )
    assert [name for name in sdist.files if made.search(name)] == []


# The wheels.


def test_there_is_a_wheel() -> None:
    assert WHEELS


@pytest.mark.skipif(not os.environ.get("EVERY_WHEEL"), reason="EVERY_WHEEL says that all platforms' wheels are here")
def test_there_is_a_wheel_for_every_python_and_platform() -> None:
    names = [name for names in PLATFORMS.values() for name in names]
    meant = {f"cp{python}-{name}" for python in [*pythons(), *FREE_THREADED] for name in names}
    assert sorted(wheel.identifier for wheel in WHEELS) == sorted(meant)


def test_a_wheel_has_the_package_and_nothing_else(sdist: Sdist, wheel: Wheel) -> None:
    """No sources, no tests; and no file forgotten: not one of a package that pyproject.toml does not name."""
    assert wheel.extensions.keys() == sdist.extensions
    assert wheel.files - set(wheel.extensions.values()) == sdist.package_files


def test_a_wheel_is_small(wheel: Wheel) -> None:
    assert wheel.path.stat().st_size < TWO_MEGABYTES


def test_a_wheel_has_the_licence(wheel: Wheel) -> None:
    assert [name for name in wheel.all_files if name.endswith(".dist-info/licenses/LICENSE")]


def test_a_linux_wheel_needs_no_newer_system_than_its_tag_says(wheel: Wheel) -> None:
    """auditwheel chose the tag; here the symbols are read once more, and held against it."""
    elffile = pytest.importorskip("elftools.elf.elffile")
    tag = re.search(r"manylinux_2_(\d+)_", wheel.platform_tag)
    if tag is None:
        pytest.skip("a wheel without a tag for glibc")
    for module, name in wheel.extensions.items():
        elf = elffile.ELFFile(io.BytesIO(wheel.read(name)))
        assert needed_libraries(elf) <= LIBRARIES, name
        versions = versions_of_undefined(elf)
        newest = max((version for version in versions.values() if version), default=(2, 0))
        assert newest <= (2, int(tag[1])), (name, versions)
        foreign = [
            symbol
            for symbol, version in versions.items()
            if version is None and not symbol.startswith(("Py", "_Py", *OF_THE_COMPILER))
        ]
        assert foreign == [], name
        # And it offers nothing but its start, and the mark that Cython puts into every module.
        others = {symbol for symbol in exported(elf) if not symbol.startswith("__pyx_module_is_main_")}
        assert others == {f"PyInit_{module.rpartition('/')[2]}"}, name


def needed_libraries(elf: Any) -> set[str]:
    return {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}


def versions_of_undefined(elf: Any) -> dict[str, tuple[int, ...] | None]:
    """Each symbol that has to come from elsewhere, and the version of glibc it asks for, None for none."""
    asked = {
        auxiliary["vna_other"]: auxiliary.name
        for _, auxiliaries in elf.get_section_by_name(".gnu.version_r").iter_versions()
        for auxiliary in auxiliaries
    }
    indexes = elf.get_section_by_name(".gnu.version")
    found: dict[str, tuple[int, ...] | None] = {}
    for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
        if symbol["st_shndx"] == "SHN_UNDEF" and symbol.name:
            version = asked.get(indexes.get_symbol(index)["ndx"])
            digits = re.fullmatch(r"GLIBC_([\d.]+)", version) if version else None
            assert digits or not version, (symbol.name, version)
            found[symbol.name] = tuple(map(int, digits[1].split("."))) if digits else None
    return found


def exported(elf: Any) -> set[str]:
    return {
        symbol.name
        for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
    }
