"""
The parts of ``tune``, one per file: the ``workload`` and its ``profile``, the ``sample`` of a live deployment;
``player`` (the processes that send and consume), ``drive`` (one run of them), ``sweep`` (all runs); ``queueing`` (what
theory says) and ``estimate`` (the precision of a measurement); ``advice``, ``report``, ``plots`` and ``page`` for the
results.
"""
