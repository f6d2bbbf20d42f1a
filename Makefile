# Everything that a person or CI does with this project. `make help` lists it.
PYTHON ?= python3
PYTEST_ARGS ?=
FIXTURES ?=
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

# Real models come from the mirror folder, never from a hub; nobody is told what runs here.
export RECIPE_MIRROR := $(CURDIR)/.mirror
export HF_HUB_DISABLE_TELEMETRY := 1
quickstart bench: export HF_HUB_OFFLINE := 1
# Tests speak to a hub of their own on this machine, so they are not offline: instead, the default address answers nobody.
test: export HF_ENDPOINT := http://127.0.0.1:9
test: export HF_HUB_OFFLINE := 0
# Two files of tests at once, a thread each: small models gain nothing from more.
test: export OMP_NUM_THREADS := 1

.DELETE_ON_ERROR:
.PHONY: help quickstart test test-long check clients lint fixtures schema matrix bench clean clean-all

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

quickstart: $(VENV)/with-run  ## install, get a real model and rows, run recipes/quickstart.json through the gate
	@$(BIN)/python -m tools.fetch_fixtures
	$(BIN)/recipe run recipes/quickstart.json

test: $(VENV)/with-dev  ## install, get the fixtures, run the tests (PYTEST_ARGS='-m "not slow"' for the quick ones)
	@$(BIN)/python -m tools.fetch_fixtures
	$(BIN)/pytest -n 2 --dist loadscope $(PYTEST_ARGS)

test-long: PYTEST_ARGS += -m long
test-long: test  ## the suites that go through every architecture, layer and client, and take as long again

check: lint  ## what CI runs: format, lint, types, import rules, all tests
	@$(MAKE) --no-print-directory test

lint: $(VENV)/with-dev  ## format, lint, types and import rules only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fixtures: $(VENV)/with-run  ## get the real model and rows that recipes/ and tests/ use (FIXTURES='spam django', or --all)
	@$(BIN)/python -m tools.fetch_fixtures $(FIXTURES)

clients: $(VENV)/with-dev  ## get transformers.js by npm (Node.js 18 or newer), and run the tests that open bundles with it
	@$(BIN)/python -m tools.fetch_clients
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/clients -m long

schema: $(VENV)/with-run  ## write the generated files anew: the JSON Schema and the reference page
	$(BIN)/python -m compiler.schema
	$(BIN)/python -m compiler.reference

matrix: $(VENV)/with-dev  ## run the whole conformance table, an hour; ARGS=--missing: only the cells without figures
	$(BIN)/python -m tools.matrix $(ARGS)

bench: $(VENV)/with-dev  ## training speed beside transformers.Trainer, on the same rows
	@$(BIN)/python -m tools.fetch_fixtures
	$(BIN)/python benchmarks/train_vs_trainer.py

clean:  ## remove caches and builds
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

clean-all: clean  ## remove also the environment, the fixtures and every run
	rm -rf $(VENV) .cache .clients .mirror recipes/data runs recipes/runs

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

# One stamp for each set of packages; a change of the versions installs again.
$(VENV)/with-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing recipec with PyTorch and ONNX into $(VENV), about 1.5 GB; minutes the first time."
	@$(PIP_INSTALL) -e '.[torch,onnx]'
	@touch $@

$(VENV)/with-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing recipec with PyTorch, ONNX and the tools for developing into $(VENV), about 1.6 GB; minutes the first time."
	@$(PIP_INSTALL) -e '.[torch,onnx,dev]'
	@touch $(VENV)/with-run $@
