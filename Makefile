# hydragrad: `make help` lists the targets. ARGS reaches the command: make test ARGS="-k sgd -x"
PYTHON ?= python3
ARGS   ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

# Stamps: the environment exists, it holds the package, the developers' tools, what builds the documentation.
MADE  := $(VENV)/.made
READY := $(VENV)/.ready
DEV   := $(VENV)/.ready-dev
DOCS  := $(VENV)/.ready-docs
PEERS := $(VENV)-peers/.ready
OLDEST := $(VENV)-oldest/.ready

# One thread: sums keep their order, so results are the same on every machine with the same kernels.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest gpu check docs pictures matrix bench faults bench-peers clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\): .*## \(.*\)/  make \1  \2/p' Makefile

demo: $(READY) ## the main job on an embedded data set; writes runs/demo/report.html
	$(ONE_THREAD) $(BIN)/hydragrad demo $(ARGS)

test: $(DEV) ## the tests
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n auto --maxprocesses 4 $(ARGS)

test-oldest: $(OLDEST) ## the tests, with the oldest releases that we take; downloads some 3 GB once
	$(ONE_THREAD) $(VENV)-oldest/bin/python -m pytest -q -n auto --maxprocesses 4 $(ARGS)

gpu: $(DEV) ## the main routes on a CUDA device, held to retraining there; torch must be built for it
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch finds no CUDA device here.")'
	$(BIN)/python -m pytest -q tests/gpu $(ARGS)

check: $(DEV) ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DOCS) ## the documentation; writes docs/_build/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build $(ARGS)

pictures: $(DEV) ## make the pictures of the documentation again
	$(ONE_THREAD) $(BIN)/python docs/pictures $(ARGS)

matrix: $(DEV) ## write the support matrix of the documentation again
	$(ONE_THREAD) $(BIN)/python docs/matrix

bench: $(DEV) ## side-by-side timings
	$(BIN)/python -m benchmarks $(ARGS)

faults: $(DEV) ## kills and damaged files, with a tally; hours
	$(ONE_THREAD) $(BIN)/python -m faults $(ARGS)

bench-peers: $(PEERS) ## the same job by captum, dattri, traker and kronfluence, in an environment of its own
	$(ONE_THREAD) $(VENV)-peers/bin/python -m benchmarks.peers $(ARGS)

clean: ## remove the environment, caches and builds; runs/ stays
	rm -rf $(VENV) $(VENV)-peers $(VENV)-oldest build dist docs/_build docs/reference/commands.md .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "hydragrad needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo 'not there')." \
			"Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(READY): pyproject.toml constraints.txt | $(MADE)
	@echo "Installing into $(VENV); torch is large, this takes minutes once."
	$(PIP) --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(MADE)
	@echo "Installing into $(VENV); torch is large, this takes minutes once."
	$(PIP) --editable ".[dev]"
	@touch $(READY) $@

$(DOCS): pyproject.toml constraints.txt | $(MADE)
	@echo "Installing into $(VENV); torch is large, this takes minutes once."
	$(PIP) --editable ".[dev,docs]"
	@touch $(READY) $(DEV) $@

$(PEERS): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[peers]"
	@touch $@

$(OLDEST): pyproject.toml constraints-oldest.txt
	@echo "Installing the oldest releases into $(VENV)-oldest; on Linux, torch comes with CUDA: 3 GB to download, 6 on the disk."
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --disable-pip-version-check --constraint constraints-oldest.txt --editable ".[tests]"
	@touch $@
