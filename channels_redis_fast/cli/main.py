"""
The frame of the command line: picks the command, and turns any error into one line and an exit code.

Exit codes: 0, all is well; 1, the command found a problem, failed, or was interrupted; 2, wrong usage or settings, or
an extra is missing; 141, the reader of its output has gone. A command is imported only when it is requested, and
without the extra: ``--help`` does not need it. Does not know what a command does, nor where a deployment comes from.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from .. import __version__
from ..options import DOCS
from . import deployment

#: The commands, and the modules that hold them.
COMMANDS = {
    "inspect": "channels_redis_fast.cli.inspect.command",
    "check": "channels_redis_fast.cli.check.command",
    "tune": "channels_redis_fast.cli.tune.command",
    "bench": "channels_redis_fast.cli.bench.command",
}

PROGRAM = "channels-redis-fast"

#: The packages that the extras provide, and the extra to install for each: ``[tune]`` has all that ``tune`` needs.
EXTRAS = {"rich": "cli", "matplotlib": "tune"}

#: The exit code of a command whose reader has gone, as in ``inspect --watch | head``: a shell's code for SIGPIPE.
PIPE_CLOSED = 141

#: The line width in characters if the output does not go to a terminal, which would tell its width.
WIDTH = 120

_NO_LAST_RESORT = logging.NullHandler()

_CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*(?=@)|(?<=[?&]password=)[^\s'\"&]*")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command that ``argv`` asks for (without the program's name; None: the process' own arguments).

    Returns the exit code. Raises ``SystemExit`` for ``--help``, ``--version`` and wrong usage, as argparse does.
    """
    given = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        command, arguments = _parse(given)
        return int(command.run(arguments, make_console()))

    return guarded(run, PROGRAM, given[0] if given else "", is_debugged="--debug" in given)


def guarded(run: Callable[[], int], program: str, command: str, is_debugged: bool = False) -> int:
    """
    Return what ``run`` returns. If it raises, print one line on standard error and return the error's exit code.

    ``program``: the beginning of that line; ``command``: the command that is run, for which an extra may be missing;
    ``is_debugged``: whether to print a traceback too. ``SystemExit`` passes through.
    """

    def failed(message: str, code: int) -> int:
        if is_debugged:
            print(without_credentials(traceback.format_exc()), file=sys.stderr)
        print(f"{program}: {without_credentials(message)}", file=sys.stderr)
        return code

    # A command reports what a layer logs in its own output; a project's own handlers still get it.
    logging.getLogger("channels_redis_fast").addHandler(_NO_LAST_RESORT)
    try:
        with _terminate_as_interrupt(), _flushed():
            return run()
    except KeyboardInterrupt:
        return failed("Interrupted.", 1)
    except BrokenPipeError:
        # The reader of the pipe has gone. Python would complain again when it flushes at the end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except deployment.UsageError as error:
        return failed(str(error), 2)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in EXTRAS:
            return failed(_describe(error), 1)
        extra = "tune" if command == "tune" else EXTRAS[missing]
        return failed(f"{missing} is not installed: pip install '{PROGRAM}[{extra}]'", 2)
    except Exception as error:
        return failed(_describe(error), 1)


def without_credentials(text: str) -> str:
    """Return a text without the part before the host in URLs, and without passwords in their queries."""
    return _CREDENTIALS.sub("***", text)


class _Parser(argparse.ArgumentParser):
    """Repeats no password in an error about an argument that may be a URL."""

    def error(self, message: str) -> NoReturn:
        super().error(without_credentials(message))


def _parse(given: list[str]) -> tuple[Any, argparse.Namespace]:
    parser = _Parser(
        prog=PROGRAM,
        description="Inspect, check, tune and measure the channel layers of a Django project.",
        epilog=f"For the options of a command and an example: {PROGRAM} COMMAND --help. Documentation: {DOCS}",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    chosen = given[0] if given and given[0] in COMMANDS else None
    modules: dict[str, Any] = {}
    for name in (chosen,) if chosen is not None else COMMANDS:
        if chosen is None and not {"-h", "--help"} & set(given):
            # For the version, or for wrong usage, the names are enough.
            commands.add_parser(name)
            continue
        module = modules[name] = importlib.import_module(COMMANDS[name])
        command = add_command(commands, name, module, module.EXAMPLE)
        deployment.add_options(command)
        module.add_arguments(command)
    arguments = parser.parse_args(given)
    return modules[arguments.command], arguments


def add_command(commands: Any, name: str, module: Any, example: str) -> argparse.ArgumentParser:
    """Add a command to argparse's subparsers, without its own arguments; return its parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=module.HELP,
        description=module.HELP,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def make_console(**options: Any) -> Any:
    """Return the console that a command prints to; ``options`` are rich's. Raises ``ModuleNotFoundError``."""
    from rich.console import Console  # noqa: PLC0415 - of the extra

    class Output(Console):
        def on_broken_pipe(self) -> NoReturn:
            # rich would end the process here, in the middle of whatever is open.
            raise BrokenPipeError

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Output(width=None if has_width else WIDTH, highlight=False, **options)


@contextlib.contextmanager
def _flushed() -> Iterator[None]:
    """Flush standard output at the end, while its errors can still be handled."""
    try:
        yield
    except SystemExit:
        # ``--help``, ``--version``.
        sys.stdout.flush()
        raise
    sys.stdout.flush()


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Make SIGTERM act like Ctrl-C, so that a command cleans up after itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # In the background of a script, for example, where SIGTERM would otherwise do nothing.
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _describe(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
