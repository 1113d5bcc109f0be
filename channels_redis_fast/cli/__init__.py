"""
The command line: ``channels-redis-fast`` and ``python -m channels_redis_fast``, of the extra ``[cli]``.

``main`` knows the commands by name and nothing of what they do; ``deployment`` turns the options that all of them share
into layers. A command is a module of its own with ``HELP`` (one line), ``EXAMPLE`` (shown below the help),
``add_arguments(parser)`` and ``run(arguments, console)``, which returns the exit code. Nothing outside of this package
imports from it, and nothing of the layers needs what it needs.
"""
