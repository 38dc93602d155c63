# The commands of the house; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
# Processes that share the tests, a file of them at a time: most wait for servers more than they compute.
WORKERS ?= 2
BIN := .venv/bin
STAMPS := .venv/stamps
NPM_STAMP := tests/npm/node_modules/.installed
BENCH_NPM_STAMP := bench/npm/node_modules/.installed
PACKAGES := voltflow edge cloud sim_device
APT := mosquitto mosquitto-clients prometheus victoria-metrics chromium iproute2 faketime openssl bubblewrap wget

# What is installed first is used by what follows.
.NOTPARALLEL:
.PHONY: help demo test lint format chaos bench wheel secrets docs pictures clean install-test

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMPS)/demo $(STAMPS)/editor ## install and run the whole product here: make demo ARGS="--seconds 60 --packs 20"
	@exec $(BIN)/voltflow demo $(ARGS)

test: install-test lint ## install what the tests need, check the code, run every test: make test ARGS="-k mqtt"
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(STAMPS)/test ## ruff, mypy --strict, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMPS)/test ## lay out the code and repair what ruff can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

chaos: install-test ## random faults on real processes, every message checked: make chaos ROUNDS=200 SEED=7 ARGS="--faults kill"
	$(BIN)/python -m tests.chaos --rounds $(or $(ROUNDS),25) --seed $(or $(SEED),1) $(ARGS)

bench: install-test ## measure beside others (docs/benchmarks.md): make bench ARGS="--only agent,bare"
	$(BIN)/python -m bench $(ARGS)

wheel: $(STAMPS)/venv $(STAMPS)/editor ## build dist/voltflow-*.whl with the flow editor in it, for gateways without npm
	$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps --wheel-dir dist .
	@ls dist/*.whl

secrets: $(STAMPS)/venv ## make the passwords and certificates of docker-compose.yml: make secrets ARGS="--host gw.example"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e . 'cryptography>=42'
	@$(BIN)/voltflow secrets $(ARGS)

docs: $(STAMPS)/venv ## build the documentation's site into site/, strictly
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo "site/index.html"

pictures: install-test ## photograph the gateway's page with a simulated fleet for the README, into docs/img
	VOLTFLOW_PICTURES=1 $(BIN)/python -m pytest -q tests/e2e/test_page_pictures.py
	$(BIN)/python -m tests.e2e.pictures

clean: ## forget everything that was installed, built or measured here
	rm -rf .venv build dist site *.egg-info tests/npm/node_modules bench/*/node_modules
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .voltflow
	find $(PACKAGES) tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

install-test: $(STAMPS)/test $(STAMPS)/apt $(NPM_STAMP) $(BENCH_NPM_STAMP) $(STAMPS)/editor

# A stamp is newer than what it was made from, so a second run installs nothing.
$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Voltflow needs Python 3.11 or newer: make demo PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { echo "no virtual environments here: sudo apt-get install python3-venv" >&2; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/demo: $(STAMPS)/venv setup.cfg pyproject.toml
	@echo "installing the demo into .venv (about a minute the first time) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[demo]'
	@touch $@

$(STAMPS)/test: $(STAMPS)/venv setup.cfg pyproject.toml
	@echo "installing the tests' packages into .venv (some minutes the first time) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	@touch $@ $(STAMPS)/demo

# Node-RED's editor and what the page draws with, which the agent serves; without them everything else works.
$(STAMPS)/editor: $(STAMPS)/venv voltflow/admin/npm_files.py voltflow/admin/editor_files.py voltflow/admin/page_files.py
	@if $(BIN)/voltflow editor install && $(BIN)/voltflow page install; then touch $@; \
	else echo "no flow editor, charts or 3D view for now; later: $(BIN)/voltflow editor install; $(BIN)/voltflow page install" >&2; fi

# Tests start their own servers; RUNLEVEL=1 keeps the packages from starting theirs where no systemd runs.
$(STAMPS)/apt: $(STAMPS)/venv Makefile
	@missing=$$(for name in $(APT); do \
	  dpkg-query -W -f '$${Status}' $$name 2>/dev/null | grep -q 'install ok installed' || echo -n "$$name "; done); \
	if [ -z "$$missing" ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ]; then echo "installing $$missing…"; export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >$(STAMPS)/apt.log 2>&1 \
	  || { tail -20 $(STAMPS)/apt.log >&2; exit 1; }; touch $@; \
	else echo "some tests will be skipped; for all of them: sudo apt-get install $$missing" >&2; fi

$(NPM_STAMP): tests/npm/package.json tests/npm/package-lock.json
	@if command -v npm >/dev/null; then npm --prefix tests/npm ci --silent && touch $@; \
	else echo "the TimescaleDB tests will be skipped; for all of them: sudo apt-get install nodejs npm" >&2; fi

$(BENCH_NPM_STAMP): bench/npm/package.json bench/npm/package-lock.json
	@if command -v npm >/dev/null; then npm --prefix bench/npm ci --silent && touch $@; \
	else echo "tests beside Node-RED will be skipped; for all of them: sudo apt-get install nodejs npm" >&2; fi
