# `make` alone lists what there is to make.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# What is imported is compiled then; to compile all that is installed takes longer than the rest.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# And kept, even where the surroundings ask for no bytecode: torch and Lightning are imported by
# hundreds of processes, and take three times as long from their sources.
export PYTHONDONTWRITEBYTECODE :=
READY  := $(VENV)/.ready
# The lock is the only place that names the version of torch.
TORCH  := $(shell grep '^torch==' requirements.lock)
# For example TORCH_OPTIONS="--index-url URL" for builds from another index (CPU only, say).
TORCH_OPTIONS ?=
# For example make test PYTEST_OPTIONS="tests/front -x", or with "-n 0" in this process, for --pdb
PYTEST_OPTIONS ?=
# For example make tables TABLE_OPTIONS="launcher=local"
TABLE_OPTIONS ?=
# Files of tests are divided among processes, in the order that tests/conftest.py gives them.
DIVIDED := --numprocesses=auto --dist=loadfile --no-loadscope-reorder

DEMO := $(BIN)/frontrunner run -m experiment=demo

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint bench tables quotes wheel wheel-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(READY) ## the environment .venv, with the versions in requirements.lock

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "$(VENV): new environment"; $(PYTHON) -m venv $(VENV); }
	@# First and by itself: resolved among the others, torch may come in another build.
	@echo "$(VENV): $(TORCH)"
	@$(PIP) $(TORCH_OPTIONS) $(TORCH)
	@echo "$(VENV): frontrunner and the tools to develop it"
	@$(PIP) --constraint requirements.lock --editable '.[dev]'
	@touch $@

# A finished run is not run again, so a second `make demo` only compares.
demo: export WANDB_MODE = offline
demo: $(READY) ## train five methods on an embedded task and compare their fronts
	$(DEMO) method=learning/gmooar method.upper=hv,u seed=0,1
	$(DEMO) method=learning/cosmos,learning/linear_scalarization,learning/chebyshev seed=0,1
	$(BIN)/frontrunner compare runs/demo

test: export HF_HUB_OFFLINE = 1
test: export WANDB_MODE = offline
test: $(READY) ## the tests
	$(BIN)/python -m pytest $(DIVIDED) $(PYTEST_OPTIONS)

lint: $(READY) ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A finished run is not run again; a table that lacks runs does not keep the others from being made.
tables: export WANDB_MODE = offline
tables: $(READY) ## every paper's table at scale cpu, and the pages that quote them (hours)
	@failed=0; for file in experiments/*/*.yaml; do \
		grep -q '^  cpu:' "$$file" || continue; \
		$(BIN)/frontrunner table "$$file" --save $(TABLE_OPTIONS) || failed=1; \
	done; $(MAKE) quotes || failed=1; exit $$failed

quotes: $(READY) ## the tables that README.md and docs/ quote, as they were computed
	$(BIN)/python scripts/quote.py

bench: export WANDB_MODE = offline
bench: $(READY) ## speed and memory, each as a ratio (benchmarks/)
	@set -e; for file in benchmarks/[!_]*.py; do \
		test -e "$$file" || { echo "benchmarks/ has no programs"; exit 1; }; \
		echo "$$file"; $(BIN)/python "$$file"; \
	done

wheel: $(READY) ## dist/frontrunner-VERSION-py3-none-any.whl
	$(BIN)/python -m build --wheel --outdir dist

wheel-check: $(READY) ## install the wheel into an empty environment and run it there
	scripts/check_wheel.sh $(BIN)/python

clean: ## remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
	find src tests experiments benchmarks -name __pycache__ -prune -exec rm -rf {} +
