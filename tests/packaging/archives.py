"""What an sdist and a wheel hold, read from the archives. Knows their formats; judges nothing."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

#: The name of a compiled module, with or without the part that says for which Python.
EXTENSION = re.compile(r"^(?P<module>.+?)(\.[\w-]+)?\.(so|pyd)$")


class Sdist:
    """The files of an sdist by their path below its one directory, directories left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
        self.tops = {PurePosixPath(member.name).parts[0] for member in members}
        self.files = {str(PurePosixPath(*PurePosixPath(member.name).parts[1:])) for member in members}

    @property
    def package_files(self) -> set[str]:
        """What the package is made of: its Python files, its type marker, and what the live page is made of."""
        inside = {name for name in self.files if name.startswith("channels_redis_fast/")}
        return {name for name in inside if name.endswith((".py", "/py.typed", ".css", ".html", ".js"))}

    @property
    def extensions(self) -> set[str]:
        """The compiled modules that its sources make, as paths without a suffix."""
        names = (PurePosixPath(name) for name in self.files)
        return {f"channels_redis_fast/_ext/{name.stem}" for name in names if name.match("_ext/*.pyx")}


class Wheel:
    """The files of a wheel, those of its metadata left out, and its tags."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.all_files = {entry.filename for entry in archive.infolist() if not entry.is_dir()}
        self.python_tag, self.abi_tag, self.platform_tag = path.stem.split("-")[-3:]
        self.files = {name for name in self.all_files if not PurePosixPath(name).parts[0].endswith(".dist-info")}

    @property
    def extensions(self) -> dict[str, str]:
        """The compiled modules: their paths without a suffix, and the names in the archive."""
        found = {name: EXTENSION.match(name) for name in self.files}
        return {match["module"]: name for name, match in found.items() if match}

    @property
    def identifier(self) -> str:
        """What cibuildwheel calls the build that this wheel is of: `cp314t-musllinux_aarch64`."""
        # The system, and the machine at the end: the versions of glibc, musl and macOS between them do not count.
        platform = re.sub(r"^(manylinux|musllinux|macosx)\d*(_\d+_\d+)?_", r"\1_", self.platform_tag.split(".")[0])
        return f"{self.abi_tag}-{platform}"

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(name)
