"""
``manage.py channels_redis_fast COMMAND ALIAS...``: the command line for the CHANNEL_LAYERS of the project.

The commands, their options and exit codes are those of ``channels-redis-fast``. There, ``--settings`` and ``--alias``
select the layer; here, the project is known and the aliases are arguments.
"""

from __future__ import annotations

import importlib
import sys
from argparse import SUPPRESS, Namespace
from typing import Any, ClassVar

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from ...cli import deployment, main

PROGRAM = "manage.py channels_redis_fast"


class Command(BaseCommand):  # type: ignore[misc]
    """The command."""

    help = "Inspect, check, tune and measure the channel layers in CHANNEL_LAYERS."

    #: No system checks, because ``check`` is meant for wrong settings.
    requires_system_checks: ClassVar[list[str]] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the commands, each with its options."""
        commands = parser.add_subparsers(dest="tool", metavar="COMMAND", required=True)
        for name, path in main.COMMANDS.items():
            module = importlib.import_module(path)
            command = main.add_command(commands, name, module, _example(module.EXAMPLE))
            command.add_argument(
                "aliases",
                nargs="*",
                metavar="ALIAS",
                help=f"layers in CHANNEL_LAYERS, one after the other (default: {deployment.DEFAULT_ALIAS})",
            )
            for option in ("--settings", "--pythonpath"):
                # Options of manage.py itself, which has already read them, wherever they are.
                command.add_argument(option, help=SUPPRESS, default=SUPPRESS)
            module.add_arguments(command)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; end the process with its exit code unless that is 0."""
        module = importlib.import_module(main.COMMANDS[options["tool"]])
        aliases = options["aliases"] or [deployment.DEFAULT_ALIAS]

        def run() -> int:
            if len(aliases) > 1 and options.get("watch") is not None:
                raise deployment.UsageError("--watch shows one layer: name one alias.")
            console = main.make_console(
                file=options.get("stdout"), no_color=options["no_color"], force_terminal=options["force_color"] or None
            )
            return max(int(module.run(_arguments(options, alias), console)) for alias in aliases)

        is_debugged = options["debug"] or options["traceback"]
        code = main.guarded(run, PROGRAM, options["tool"], is_debugged=is_debugged)
        if code:
            sys.exit(code)


def _arguments(options: dict[str, Any], alias: str) -> Namespace:
    """Return what a command would get from its own command line for this project and this alias."""
    named: dict[str, Any] = dict.fromkeys(("hosts", "cluster", "prefix", "layer"))
    module = getattr(settings, "SETTINGS_MODULE", None)
    return Namespace(**{**options, **named, "sharded": False, "settings": module, "alias": alias})


def _example(example: str) -> str:
    """Return the example of a command, rewritten for ``manage.py``."""
    here = example.replace(main.PROGRAM, PROGRAM).replace(" --settings mysite.settings", "")
    return here.replace("--alias ", "")
