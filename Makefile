# Two commands set everything up by themselves: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NSYS_HOME ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dsprof/nsys
READY := $(VENV)/.ready
# What `make bench` measures, in kernels, and where it keeps the reports that it makes; ARGS: more options.
SIZES ?= 100000 1000000
BENCH_HOME ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dsprof/bench
# The recorded reports that it measures before: a sample, and what lies in a folder of one's own (benchmarks/README.md).
REPORTS ?= traces/samples/h200-dsocr2-layers.sqlite.xz $(wildcard $(BENCH_HOME)/recorded/*.sqlite)

# Tests run in so many processes: one more than there are cores, for those of one that records mostly wait.
WORKERS ?= $(shell expr `nproc` + 1)

# How dsprof says that nsys lost its own agent, which it does now and then on a loaded machine: such a test runs again.
NSYS_FAULT := nsys (left no report \(exit code [0-9]+\): (End of file|(Failed to connect to Agent: )?Connection)|could not reach its agent)

.PHONY: help demo test lowest check lint types contracts format readme pictures notebooks dist nsys bench profile \
        shape fuzz clean
.DEFAULT_GOAL := help

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev --group models
	@touch $@

demo: $(READY) ## Record and analyze a small report under the real nsys, then the sample of a GPU
	@PATH="$(abspath $(BIN)):$$PATH" NSYS_HOME="$(NSYS_HOME)" .ci/demo

test: $(READY) ## Run the tests (those that need nsys are skipped where there is none: see `make nsys`)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --reruns 2 --only-rerun "$(NSYS_FAULT)" $(TEST)

lowest: ## Run the tests of the analysis with the oldest packages allowed (Python 3.11 or 3.12)
	PYTHON="$(PYTHON)" .ci/lowest $(TEST)

check: lint types contracts test ## Style, types, contracts, tests

lint: $(READY) ## Style and likely bugs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Static types
	$(BIN)/mypy

contracts: $(READY) ## Who may import whom
	$(BIN)/lint-imports

format: $(READY) ## Put the code into its one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: $(READY) ## Make the generated parts of README and docs anew
	$(BIN)/python tests/readme.py

pictures: $(READY) ## Make the pictures of README anew from the samples (needs .ci/install-browser)
	$(BIN)/python tests/pictures.py $(ARGS)

notebooks: $(READY) ## Run the lessons, and keep what they show
	$(BIN)/python tests/lessons.py

dist: $(READY) ## Build wheel and sdist into dist/, and check what an index would show of them
	$(BIN)/python -m pip install --quiet --group release
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

nsys: ## Install Debian's nsys into a folder, without root (two versions, for the tests)
	.ci/install-nsys "$(NSYS_HOME)/trixie" trixie
	.ci/install-nsys "$(NSYS_HOME)/bookworm" bookworm

bench: $(READY) ## Measure dsprof beside nsys stats, compare their results (SIZES="100000 1000000 10000000": all)
	$(BIN)/python benchmarks/speed.py --report $(REPORTS) --kernels $(SIZES) --folder "$(BENCH_HOME)" --first-run --check --out benchmarks/RESULTS.md $(ARGS)

profile: $(READY) ## Say where the time of an analysis goes (REPORT=run.sqlite; ARGS=--functions)
	$(BIN)/python benchmarks/breakdown.py $(REPORT) --folder "$(BENCH_HOME)" $(ARGS)

shape: ## Measure the package: rooms, import floors, long functions (ARGS=--json; "--against BEFORE.json": beside it)
	$(PYTHON) benchmarks/shape.py $(ARGS)

fuzz: $(READY) ## Try what hostile and damaged reports do to it, for some minutes (ARGS=--long: 20,000 cases)
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

clean: ## Remove what was built; reports and caches outside the tree stay
	rm -rf $(VENV) .venv-lowest build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
