# Needs Python 3.11 or newer (PYTHON=python3.12 to choose) and nothing else.
PYTHON ?= python3
BIN := .venv/bin

RECIPES := $(basename $(notdir $(wildcard experiments/recipes/[a-z]*.py)))

.PHONY: run test test-fast examples lint docs docs-browser clean

run: .venv/installed  ## the sinusoid study: eight methods, into runs/sinusoid
	$(BIN)/python -m experiments.sinusoid

test: .venv/installed  ## the test suite, on two processes
	$(BIN)/python -m pytest -q -n 2

test-fast: .venv/installed  ## every estimator against an oracle, and what is quick besides
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

examples: .venv/installed  ## every recipe of experiments/recipes, a minute each at most, long_sources twenty
	set -e; for name in $(RECIPES); do echo "== $$name"; $(BIN)/python -m experiments.recipes.$$name; done

docs: .venv/installed  ## the documentation, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-browser: docs  ## every page in headless Chromium, at two widths; needs node and chromium
	cd docs/browser && npm install --silent && node check.mjs

lint: .venv/installed  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.documents code build/documents
	$(BIN)/mypy build/documents
	$(BIN)/basedpyright --level error build/documents

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hdistill needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[training,models,data]' --group test
	touch $@

clean:
	rm -rf .venv build site *.egg-info
