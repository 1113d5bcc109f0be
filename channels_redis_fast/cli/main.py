"""
The frame of the command line: picks the command, and turns any error into one line and an exit code.

Exit codes: 0, all is well; 1, the command found a problem, failed, or was interrupted; 2, wrong usage or settings. A
command is imported when it is the one asked for. Does not know what a command does, nor where a deployment comes from.
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
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .. import __version__
from . import deployment

#: The commands, and the modules that hold them.
COMMANDS = {
    "inspect": "channels_redis_fast.cli.inspect.command",
    "check": "channels_redis_fast.cli.check.command",
    "tune": "channels_redis_fast.cli.tune.command",
    "bench": "channels_redis_fast.cli.bench.command",
}

PROGRAM = "channels-redis-fast"

#: What the extra ``[cli]`` brings.
EXTRA = ("rich", "matplotlib")

#: Characters of a line where output does not go to a terminal, which would say how wide it is.
WIDTH = 120

_NO_LAST_RESORT = logging.NullHandler()

_CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*(?=@)|(?<=[?&]password=)[^\s'\"&]*")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command that ``argv`` (without the program's name; None: that of the process) asks for.

    Returns the exit code. Raises ``SystemExit`` for ``--help``, ``--version`` and wrong usage, as argparse does.
    """
    arguments_given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments_given
    # A command reports in its own output what a layer logs; a project's own handlers still get it.
    logging.getLogger("channels_redis_fast").addHandler(_NO_LAST_RESORT)
    try:
        command, arguments = _parse(arguments_given)
        with _terminate_as_interrupt():
            return int(command.run(arguments, _console(arguments)))
    except KeyboardInterrupt:
        return _failed("Interrupted.", debug, 1)
    except BrokenPipeError:
        # The reader of the pipe has left. Python would complain once more when it flushes at the end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except deployment.UsageError as error:
        return _failed(str(error), debug, 2)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in EXTRA:
            return _failed(_describe(error), debug, 1)
        return _failed(f"{error.name} is not installed: pip install {PROGRAM}[cli]", debug, 2)
    except Exception as error:
        return _failed(_describe(error), debug, 1)


def without_credentials(text: str) -> str:
    """Return a text with what stands before the host of a URL, and a password behind it, left out."""
    return _CREDENTIALS.sub("***", text)


class _Parser(argparse.ArgumentParser):
    """Repeats no password when it complains of an argument that may be a URL."""

    def error(self, message: str) -> NoReturn:
        super().error(without_credentials(message))


def _parse(given: list[str]) -> tuple[Any, argparse.Namespace]:
    parser = _Parser(
        prog=PROGRAM,
        description="A look inside the channel layers of a Django project, and their tuning.",
        epilog=f"{PROGRAM} COMMAND --help says more of each, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    chosen = given[0] if given and given[0] in COMMANDS else None
    modules: dict[str, Any] = {}
    for name in (chosen,) if chosen is not None else COMMANDS:
        if chosen is None and not {"-h", "--help"} & set(given):
            # The version, or wrong usage: the names are enough.
            commands.add_parser(name)
            continue
        module = modules[name] = importlib.import_module(COMMANDS[name])
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        deployment.add_options(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(command)
    arguments = parser.parse_args(given)
    return modules[arguments.command], arguments


def _console(arguments: argparse.Namespace) -> Any:
    from rich.console import Console  # noqa: PLC0415 - of the extra

    is_wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_wide else WIDTH, highlight=False)


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that a command cleans up behind itself then too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _describe(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _failed(message: str, debug: bool, code: int) -> int:
    if debug:
        print(without_credentials(traceback.format_exc()), file=sys.stderr)
    print(f"{PROGRAM}: {without_credentials(message)}", file=sys.stderr)
    return code
