"""
The command line: ``channels-redis-fast`` and ``python -m channels_redis_fast``. Needs the extra ``[cli]``.

``main`` knows only the names of the commands; ``deployment`` turns the options that they all share into layers. A
command is a module with ``HELP`` (one line), ``EXAMPLE`` (shown below the help), ``add_arguments(parser)`` and
``run(arguments, console)``, which returns the exit code. Nothing outside this package imports from it, and the layers
need none of its dependencies.
"""
