# Everything runs in .venv, which each target prepares for itself: `make demo` and `make test` work
# on a fresh machine that has Python >= 3.10, and do the set-up again only when it changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# A process per core, up to four; each with one thread, so that they do not fight for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

SETUP_FILES := pyproject.toml constraints.txt
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint notebooks bench setup clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO_READY)  ## Train a small SOSM beside a transformer and write runs/quickstart/report.html
	$(BIN)/sosm quickstart

test: $(DEV_READY)  ## Run the fast tests
	$(PYTEST) -m "not slow and not gpu"

check: lint  ## Run everything that CI runs: lint, types, all tests, notebooks, README commands
	$(PYTEST) -m "not gpu" --durations=15

lint: $(DEV_READY)  ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

notebooks: $(DEV_READY)  ## Run the notebooks at full size, and keep their figures
	$(BIN)/python notebooks/keep.py

bench: $(DEV_READY)  ## Compare every op and the model with their peers (runs/bench.json)
	$(BIN)/sosm bench --out runs/bench.json

setup: $(DEV_READY)  ## Prepare .venv for development

clean:  ## Remove caches and build output; keep .venv and runs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find state_core tests experiments notebooks -name __pycache__ -prune -exec rm -rf {} +

# The build tools come first, so that they are pinned like everything else: ours, and hnswlib's.
$(DEMO_READY): $(SETUP_FILES) | $(BIN)/python
	@echo "==> Installing what the demo needs (the first time downloads some 300 MB)"
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation -e '.[train,plots]'
	@touch $@

$(DEV_READY): $(SETUP_FILES) | $(BIN)/python
	@echo "==> Installing what development needs (the first time downloads some 500 MB)"
	$(PIP) hatchling editables numpy pybind11 setuptools
	$(PIP) --no-build-isolation -e '.[memory,milvus,train,wandb,lora,plots,graph,bench,analysis,serve,cluster,triton,dev]'
	@touch $@ $(DEMO_READY)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "Python >= 3.10 is needed: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@echo "==> Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "Could not create $(VENV): is Python's venv module installed?" >&2; exit 1; }
