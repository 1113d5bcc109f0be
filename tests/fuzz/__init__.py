"""No crash, no leak: the compiled modules under sanitizers, fuzzing, threads; see docs/reliability.md.

Nothing here is a test by itself but `test_corpus.py`; `make sanitize` and `make fuzz` run the rest.
"""
