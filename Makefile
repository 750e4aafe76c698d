# make install   the environment in .venv
# make demo      one diamond in, new carbon out (at most 10 minutes on 2 cores: 8 epochs, not 12)
# make test      all quick tests         make test-slow   the long ones
# make test-services   the loop on SLURM, over ssh, through daemons, and what can befall it there
# make lint      the checks of pre-commit
# make docs      the pages in docs/_build/html
# make wheel     sdist and wheel built, and tried in an environment of their own
#
# A processor build of torch saves gigabytes where there is no GPU:
#   make install PIP_TORCH="--index-url https://download.pytorch.org/whl/cpu torch"
# On a GPU machine plain `torch` of the pinned version brings CUDA along.

PYTHON ?= python3
PIP_TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-services lint docs wheel clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed '/^$$/q'

install: $(STAMP)

# torch first and pinned: anything else that asks for it may pull another build.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "aiida-rm needs Python 3.10 or newer: make install PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/python examples/diamond.py --epochs 8

test: install
	$(BIN)/python -m pytest -m 'not slow and not services' --numprocesses=2 --dist=worksteal --timeout=900 --durations=15

test-slow: install
	$(BIN)/python -m pytest -m slow

test-services: install
	tools/services.sh start
	$(BIN)/python -m pytest -m services --timeout=900 --durations=10; status=$$?; tools/services.sh stop; exit $$status

lint: install
	PATH="$(CURDIR)/$(BIN):$$PATH" pre-commit run --all-files --show-diff-on-failure

docs: install
	$(BIN)/python -W ignore -m sphinx -q -W --keep-going -b html docs docs/_build/html

wheel:
	PYTHON=$(PYTHON) PIP_TORCH="$(PIP_TORCH)" tools/check_wheel.sh

clean:
	rm -rf .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist docs/_build
