# Everything that a developer or user types. It needs CPython 3.11, make and a POSIX shell.
# Settings are environment variables: `WORKERS=2 make run` and `make run WORKERS=2` do the same.

VENV   := .venv
PY     := $(VENV)/bin/python
# Quiet: each step is told in a line. What goes wrong is shown all the same.
PIP    := -m pip --quiet --disable-pip-version-check --no-input install --no-user
CODE   := app tables local tests bench examples
# One lock for running, a superset for development; a stamp stands for a finished install.
RUN    := $(VENV)/run.stamp
DEV    := $(VENV)/dev.stamp
# What the peers of `make bench` need, in an environment of its own: it contradicts the others.
PEERS  := $(VENV)/peers
BENCH  := $(VENV)/bench.stamp
# What builds the documentation, in an environment of its own, too.
SITE   := $(VENV)/site
DOCS   := $(VENV)/docs.stamp
# Here while pip is at work: an interrupted install may leave packages that pip takes for whole.
DIRTY  := $(VENV)/installing
COMPILE := $(PY) -m uv pip compile --quiet --python-version 3.11 --universal \
           --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate
LOCK   := $(COMPILE) pyproject.toml
# The documentation needs nothing of what a worker needs.
LOCK_DOCS := $(COMPILE) --group docs
# Three files at a time, each third with a broker and a worker of its own: for a third of their time
# tests wait. Unit tests, whose files are short, come last, so that all end together.
PYTEST := $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder
# An environment holds absolute paths: where the checkout was moved, it is made anew.
MOVED  := $(shell grep -s ' -m venv /' $(VENV)/pyvenv.cfg \
          | grep -qvF -- " -m venv $$(pwd -P)/$(VENV)" && echo moved)
# More arguments for the tool behind a target: `make test ARGS=tests/unit`.
ARGS   :=

# Where packages come from is the machine's own affair; how they are installed, and how Python runs
# them, is not to be bent by what was set for other programs.
SOURCE := INDEX_URL EXTRA_INDEX_URL NO_INDEX FIND_LINKS TRUSTED_HOST CERT CLIENT_CERT PROXY \
          CACHE_DIR CONFIG_FILE KEYRING_PROVIDER TIMEOUT DEFAULT_TIMEOUT RETRIES
unexport $(filter-out $(SOURCE:%=PIP_%),$(filter PIP_%,$(.VARIABLES)))
unexport $(filter-out PYTHON,$(filter PYTHON%,$(.VARIABLES)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev run stop restart status test check lint types imports format chaos soak \
        bench clients docs lock wheel clean clean-data moved

define HELP
make run         Kafka and the workers, on this machine, until Ctrl-C   (WORKERS=auto, WEB_PORT=...)
make stop        end what runs        make status      tell what runs
make restart     restart the workers one after the other, under one address
make test        all tests            make check       lint, types, imports and the fast tests
make chaos       kill workers and broker under load, five minutes long, and check every promise
make soak        the long forms of the tests; results go to bench/results
make bench       measure, beside peers, on a broker of its own
make format      tidy the code        make lock        renew the lock files
make docs        build the documentation into build/docs, and check its links
make clients     write the types of clients/ and the AsyncAPI document again
make wheel       build a package for use without a checkout, into build/
make clean       stop, and remove all that was installed or built; the data stays
make clean-data  stop, and remove the data (DATA_DIR, ./data unless set)
endef

help:
	$(info $(HELP))
	@:

setup: $(RUN)

setup-dev: $(DEV)

run: setup
	@$(PY) -m local run

# Without an installation nothing can run, and none is made for saying so.
stop:
	@if [ -e $(RUN) ]; then $(PY) -m local stop; else echo "Not running."; fi

restart: setup
	@$(PY) -m local restart

status:
	@if [ -e $(RUN) ]; then $(PY) -m local status; else echo "not running"; exit 1; fi

test: setup-dev
	$(PYTEST) $(ARGS)

check: lint types imports
	$(PYTEST) tests/unit tests/component $(ARGS)

lint: setup-dev
	$(PY) -m ruff check $(ARGS)
	$(PY) -m ruff format --check

types: setup-dev
	$(PY) -m mypy $(CODE)

imports: setup-dev
	$(VENV)/bin/lint-imports

format: setup-dev
	$(PY) -m ruff check --fix-only
	$(PY) -m ruff format

# `make chaos ARGS="--seed 7"` repeats a storm.
chaos: setup-dev
	$(PY) -m tests.chaos $(ARGS)

soak: setup-dev
	$(PY) -m pytest -m soak
	$(PY) -m tests.chaos --report bench/results/chaos.json $(ARGS)
	$(PY) -m tests.chaos --brokers 3 --faults 6 --suspensions 0 --registrations 250000 --clients 32 \
	    --seconds-limit 900 --report bench/results/chaos-cluster.json
	$(PY) -m tests.mutants --report bench/results/mutants.json

bench: setup-dev $(BENCH)
	$(PY) -m bench $(ARGS)

# From the registry's own types; a test tells when they differ.
clients: setup-dev
	$(PY) -m app.web.api.typescript clients/typescript/index.d.ts
	$(PY) -m app.kafka.topics.asyncapi docs/reference/asyncapi.json

# A warning is an error: links and anchors that lead nowhere are warnings.
docs: $(DOCS)
	$(SITE)/bin/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet \
	    -d build/doctrees docs build/docs $(ARGS)
	@echo "build/docs/index.html"

# Modules that are gone would stay in what setuptools has built before.
wheel: setup-dev
	@rm -rf build/lib build/bdist.* build/*.whl
	@$(PY) -m pip wheel . --no-deps --no-build-isolation --quiet --disable-pip-version-check -w build
	@echo build/*.whl

# Versions stay as they are unless they must move: `make lock ARGS=--upgrade` renews all.
lock: setup-dev
	$(LOCK) $(ARGS) -o locks/worker.txt
	$(LOCK) $(ARGS) --extra local -c locks/worker.txt -o locks/run.txt
	$(LOCK) $(ARGS) --extra local --extra otel --extra jwt --extra dev -c locks/run.txt -o locks/dev.txt
	$(LOCK) $(ARGS) --extra bench -o locks/bench.txt
	$(LOCK_DOCS) $(ARGS) -o locks/docs.txt

clean: stop
	rm -rf $(VENV) .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
	    .import_linter_cache $(wildcard */__pycache__ */*/__pycache__ */*/*/__pycache__)

# Any Python will do, also where nothing is installed.
clean-data: stop
	@for python in $(PY) "$$PYTHON" python3.11 python3; do \
	    if "$$python" -c '' 2>/dev/null; then exec "$$python" -I local/removal.py; fi; \
	done; \
	echo "Nothing is removed: no Python was found." >&2; \
	exit 2

$(RUN): locks/run.txt pyproject.toml $(PY) $(MOVED)
	@echo "Installing what the registry needs, once. It takes about a minute:"
	$(call install,locks/run.txt)
	@touch $@

$(DEV): locks/dev.txt pyproject.toml $(PY) $(MOVED)
	@echo "Installing what development needs, once. It takes about two minutes:"
	$(call install,locks/dev.txt)
	@touch $(RUN) $@

$(BENCH): locks/bench.txt $(MOVED) | $(DEV)
	@echo "Installing what the peers of the benchmark need, once. It takes about two minutes:"
	$(call install_beside,$(PEERS),locks/bench.txt)
	@touch $@

$(DOCS): locks/docs.txt $(MOVED) | $(PY)
	@echo "Installing what builds the documentation, once. It takes less than a minute:"
	$(call install_beside,$(SITE),locks/docs.txt)
	@touch $@

define install
@if [ -e $(DIRTY) ]; then rm -rf $(VENV) && $(MAKE) --no-print-directory $(PY); fi
@touch $(DIRTY)
$(call install_packages,$(PY),$(1))
@echo "  this project"
@$(PY) $(PIP) --no-deps --no-build-isolation -e .
@rm $(DIRTY)
endef

define install_beside
@rm -rf $(1)
@$(PY) -m venv $(1)
$(call install_packages,$(1)/bin/python,$(2))
endef

define install_packages
@echo "  $$(grep -c '^[a-z0-9].*==' $(2)) packages, as $(2) names them"
@$(1) $(PIP) --require-hashes -r $(2)
endef

FITS := import sys, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))

moved:
	@echo "This folder was elsewhere when its packages were installed: that is done anew."

# A broken link counts as missing: so a Python that was removed or replaced is noticed.
$(PY): $(MOVED)
	@for python in "$${PYTHON:-python3.11}" "$${PYTHON:-python3}"; do \
	    if "$$python" -c '$(FITS)' 2>/dev/null; then \
	        rm -rf $(VENV) && exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "CPython 3.11 with its venv module is needed: name it, make PYTHON=/path/to/python3.11" >&2; \
	exit 2
