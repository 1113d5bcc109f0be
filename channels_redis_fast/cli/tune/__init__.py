"""
What ``tune`` is made of, each file for one thing: the ``workload`` and its ``profile``, the ``sample`` of a live
deployment; ``player`` (the processes that send and consume), ``drive`` (one run of them), ``sweep`` (all runs);
``queueing`` (what theory says) and ``estimate`` (how sure a measurement is); ``advice``, ``report``, ``plots`` and
``page`` for what comes out.
"""
