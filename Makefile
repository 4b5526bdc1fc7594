# prunelab's make targets; `make` or `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
# Compiled files are kept between runs, also where the environment forbids it (containers): without them, compilation
# takes a third of the time of the collection of tests.
export PYTHONDONTWRITEBYTECODE :=
# make setup CONSTRAINTS=constraints.txt installs the versions of the committed records.
CONSTRAINED := $(addprefix --constraint ,$(CONSTRAINTS))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-gpu test-devices test-page test-rows test-slurm docs notebook refresh lint types check wheel clean

help:  ## What each target does
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | awk -F ':.*  ## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## Make .venv and install prunelab with its development tools into it

$(VENV)/.ready: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "prunelab needs Python 3.11 or newer: make setup PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(CONSTRAINED) --editable '.[dev]'
	@touch $@

demo: setup  ## Prune a network trained on scikit-learn's digits with six methods and compare them (5 minutes)
	@$(BIN)/prunelab experiment=demo

test: setup  ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

test-fast: setup  ## Run the tests of the edit loop: all but slow ones and those that start several processes (2 minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal -m 'not slow and not ddp and not browser and not rows and not gpu and not devices'

test-page: setup  ## Test the report's page in headless Chromium, which must be there (Debian: apt-get install chromium)
	$(BIN)/pytest -m browser tests/report/page

test-rows: setup  ## Run every row of the studies of ResNet-50 and ResNet-56 once, on tiny images (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m rows tests/experiments

test-devices: setup  ## Run some tests and the benchmark for a GPU on the processor (3 minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m devices tests/devices tests/experiments

test-gpu: setup  ## Test on a CUDA GPU (5 minutes); skipped where there is none
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 4 --dist worksteal -m gpu tests/gpu

test-slurm: setup  ## Run sweeps on a real Slurm cluster of one node (installs Debian's slurm-wlm and munge; 4 minutes)
	tests/slurm/install.sh
	PATH="$$PATH:/usr/sbin" PRUNELAB_SLURM=1 OMP_NUM_THREADS=1 $(BIN)/pytest tests/slurm

docs: $(VENV)/.docs  ## Build the documentation into build/site and check its links
	$(BIN)/mkdocs build --strict --quiet

refresh: setup  ## Write the generated table of methods in docs/reference/methods.md
	$(BIN)/prunelab-methods --write docs/reference/methods.md

notebook: $(VENV)/.docs  ## Run examples/tour.ipynb and store its outputs
	OMP_NUM_THREADS=1 $(BIN)/jupyter-execute --inplace examples/tour.ipynb

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/pip install --quiet $(CONSTRAINED) --editable '.[docs]'
	@touch $@

lint: setup  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## Check types
	$(BIN)/mypy

check: lint types test  ## Everything that CI checks

wheel: setup  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist .

clean:  ## Remove the environment and everything that was built (results in outputs/ stay)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
