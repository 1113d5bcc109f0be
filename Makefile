# A fresh machine needs Python >= 3.10 with venv and headers, a C compiler and make. The rest is fetched into .venv,
# and into .venv-upstream for channels_redis 4.3, which needs an older redis-py. A server comes with the test group.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# A Python of 2024 or older makes venvs with a pip that knows no dependency groups: a newer one comes first.
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
MADE := $(VENV)/made
INSTALLED := $(VENV)/installed
NOX := $(VENV)/bin/nox
# pyenv has Pythons that are not on PATH.
NOTHING :=
PYENV := $(subst $(NOTHING) ,:,$(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.*/bin))
RUN_NOX := PATH="$$PATH:$(PYENV)" $(NOX)
BUILD_INPUT := pyproject.toml setup.py $(wildcard _ext/*.pyx _ext/*.pxd channels_redis_fast/_ext/*.pxd)
UPSTREAM_PYTHON ?= $(CURDIR)/.venv-upstream/bin/python
TREES := channels_redis_fast bench contrib docs examples tests noxfile.py setup.py
# Where an environment forbids it, each of the hundreds of processes that the tests start would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=
# Most of the suite's time is waiting, so four processes share it, on two processors too. JOBS=0 runs it in one.
JOBS ?= 4
# With a new process in place of one that crashed, pytest-xdist may wait for ever for the tests of the old one.
# The files come in the order of tests/conftest.py, and not by the number of their tests.
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0
# Suites that `make test` leaves out, by the targets that run them: `make test-browser` and so on, or all in one run,
# `make test-others`. `.ci/run` runs that too.
SUITES := browser databases servers upstream chaos cli project
browser := tests/browser
databases := tests/consumers/test_databases.py
servers := $(addprefix tests/,deploy/test_servers.py deploy/test_worker.py \
	$(addprefix consumers/test_,direct_sites.py resumed_sites.py rooms.py workers.py))
upstream := tests/interop
chaos := tests/faults/chaos tests/presence/churn tests/faults/test_sync_calls.py
cli := tests/cli tests/live
project := $(wildcard tests/test_bench*.py) $(addprefix tests/,packaging typed test_dropin.py observe/test_contrib.py)
OTHERS := $(foreach suite,$(SUITES),$($(suite)))
# What is about servers, sockets, options and names is the same for both twins, and runs once; of the faults, those go
# through the twins in which messages are unreadable, or come to receivers that are many, cancelled or gone. tests/hot
# has both twins in one run. Which event loop it is neither the twins know nor a cluster: these runs have asyncio alone.
TWINS := $(patsubst %,tests/faults/test_%.py,cancelled closed_receives guarantees many_receivers poison put_back workers)
LAYERS := tests/both tests/core tests/pubsub
ONCE := -k "not uvloop" $(TWINS) \
	$(filter-out $(foreach layer,core pubsub,$(addprefix tests/$(layer)/test_,connection.py hosts.py loops.py options.py sharded.py)) \
	tests/both/test_loops.py tests/both/test_options.py,$(wildcard $(addsuffix /test_*.py,$(LAYERS))))
# The tests that take longest run on asyncio alone here, and on uvloop too in `make test-all`, or with LOOPS= here.
LOOPS ?= --one-loop
ARGS ?=
COMPILED = CHANNELS_REDIS_FAST_PURE= UPSTREAM_PYTHON="$(UPSTREAM_PYTHON)" $(PY) -m pytest
# Of `make site`: each has a port of its own.
PROCESSES ?= 1
# Of the sessions of noxfile.py: all rows of versions, or only the `ends` of the list; and what makes and tries wheels,
# of all Pythons, or with STEPS="sdist wheel-3.11 packages installed-3.11" of one.
ROWS ?= test-all
STEPS ?= sdist wheel packages installed

.PHONY: help demo site check test test-others $(addprefix test-,$(SUITES)) test-all compiled coverage lint wheel docs bench bench-check bench-report upstream clean

help:
	@echo 'make demo   a chat room on our layer, beside channels_redis 4.3 and the in-memory layer'
	@echo 'make site   the chat of examples/chat, with the live page        (PROCESSES=2)'
	@echo 'make check  lint, and a minute of tests: before a commit     (ARGS="-k group" goes to pytest)'
	@echo 'make test   the suite; what has a twin, pure as well; the layers, on a cluster as well'
	@echo 'make test-others  the suites that make test leaves out       (or one: make $(addprefix test-,$(SUITES)))'
	@echo 'make test-all  the suite on other versions: Python, redis-py, Channels, server   (noxfile.py has the rows)'
	@echo 'make coverage  lines of Python and of Cython that the suite runs, as a table and in build/coverage'
	@echo 'make lint   ruff, mypy, cython-lint'
	@echo 'make wheel  sdist and wheels for every Python here, in dist/, checked, installed and tested from outside'
	@echo 'make docs   the documentation as a site, in build/site'
	@echo 'make bench  the benchmarks                                 (ARGS="--quick --promise --loop uvloop")'
	@echo 'make bench-check   a short run, and whether the promised ratios are reached (ARGS="--against main")'
	@echo 'make bench-report  the tables and pictures of docs/performance.md, from the last full run'
	@echo 'make sanitize   the tests that need no server, with AddressSanitizer and UBSan'
	@echo 'make fuzz   the compiled modules against the pure ones       (TARGET=decode SECONDS=600)'
	@echo 'make chaos  random faults under traffic, and what became of it   (SECONDS=600 SEED=1 SETUP=ring; all by default)'
	@echo 'make presence  who is there, while users come and go and everything fails   (SECONDS=600 SEED=1 SETUP=core-single)'
	@echo 'make drop-in  other projects'"'"' suites on channels_redis 4.3 and here, side by side   (SOURCES=folder of clones)'
	@echo 'make clean  remove everything the others made, the venvs too'

demo: $(INSTALLED) upstream
	@$(PY) -m bench.demo

site: $(INSTALLED)
	@$(PY) -m examples.chat --processes $(PROCESSES)

check: lint compiled
	$(COMPILED) $(SPREAD) -m "not slow" $(ARGS)

test: compiled upstream
	$(COMPILED) $(SPREAD) $(LOOPS) $(addprefix --ignore=,$(OTHERS)) $(ARGS)
	CHANNELS_REDIS_FAST_PURE=1 $(PY) -m pytest $(SPREAD) $(ONCE) $(ARGS)
	$(if $(ARGS),,$(COMPILED) $(SPREAD) $(LAYERS) --on-cluster -k "not uvloop")

$(addprefix test-,$(SUITES)): test-%: compiled upstream
	$(COMPILED) $(SPREAD) $(LOOPS) $($*) $(ARGS)

test-others: compiled upstream
	$(COMPILED) $(SPREAD) $(LOOPS) $(OTHERS) $(ARGS)

compiled: $(INSTALLED)
	@$(PY) -c 'from channels_redis_fast import hot; assert hot.COMPILED, "not compiled: see pip install -v -e ."'

test-all: $(NOX) upstream
	$(RUN_NOX) -t $(ROWS) -- $(ARGS)

coverage: $(NOX) upstream
	$(RUN_NOX) -s coverage -- $(ARGS)

# cython-lint calls pycodestyle by name.
lint: $(INSTALLED)
	$(PY) -m ruff check $(TREES)
	$(PY) -m ruff format --check $(TREES)
	$(PY) -m mypy --strict channels_redis_fast
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint _ext

wheel: $(NOX)
	$(RUN_NOX) -s $(STEPS)

docs: $(NOX)
	$(RUN_NOX) -s docs

bench: $(INSTALLED) upstream
	@$(PY) -m bench.compare $(ARGS)

bench-check: $(INSTALLED) upstream
	@$(PY) -m bench.check $(ARGS)

bench-report: $(INSTALLED)
	@$(PY) -m bench.report $(ARGS)

upstream: $(INSTALLED)
	@$(PY) -m bench.upstream >/dev/null

# Stamps, not $(PY) itself: that exists already when a venv was made only halfway.
$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'channels_redis_fast needs Python >= 3.10: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo 'no venv could be made: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }
	@touch $@

$(INSTALLED): $(MADE) $(BUILD_INPUT)
	$(PIP_INSTALL) 'pip>=25.1'
	CHANNELS_REDIS_FAST_PURE= $(PIP_INSTALL) -e . --group test --group lint --group bench
	@touch $@

$(NOX): $(MADE)
	$(PIP_INSTALL) nox
	@touch $@

clean:
	rm -rf $(VENV) .venv-upstream .venv-baselines .venv-redis-py .nox build dist *.egg-info bench/results
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage
	rm -f channels_redis_fast/_ext/*.so channels_redis_fast/_ext/*.c _ext/*.c _ext/*.html
	find $(TREES) -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- no crash, no leak: docs/reliability.md
.PHONY: sanitize fuzz chaos presence
TARGET ?= all
SECONDS ?= 60

# The suite's server-free part, or ARGS="tests/hot -k envelope", with AddressSanitizer and UBSan. Needs gcc.
sanitize: $(INSTALLED)
	@$(PY) -m tests.fuzz.sanitize $(ARGS)

# atheris has no wheels for everything; without it inputs are made up blindly. (ARGS=--keep renews tests/corpus)
fuzz: $(INSTALLED)
	@$(PY) -c 'import atheris' 2>/dev/null || $(PIP_INSTALL) --group fuzz || true
	@$(PY) -m tests.fuzz $(TARGET) $(SECONDS) $(ARGS)

# All setups share SECONDS; without SEED it is another one each time. ARGS="--round 3" runs that one alone.
chaos: $(INSTALLED)
	@$(PY) -m tests.faults.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(addprefix --setup ,$(SETUP)) $(ARGS)

# Users who come and go, processes and servers that fail: docs/presence.md.
presence: $(INSTALLED)
	@$(PY) -m tests.presence.churn --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(addprefix --setup ,$(SETUP)) $(ARGS)

# ---- a drop-in for the code people already have: docs/upgrading.md
.PHONY: drop-in
# Git repositories by the suites' names, in place of clones from GitHub. ARGS="--suite channels --write"
SOURCES ?=

drop-in: $(INSTALLED)
	@$(PY) -m tests.dropin $(if $(SOURCES),--sources $(SOURCES)) $(ARGS)
