# Everything runs in .venv, which is made on first use: Python 3.11 or newer and pip are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PYTEST_ARGS ?= -n auto
# Half a gigabyte of unpacked packages, kept between runs.
DEVICES ?= $(HOME)/.cache/graphopt-devices
# One and a half gigabytes: PyTorch, transformers, optimum's exporter, scikit-learn.
EXPORT ?= $(HOME)/.cache/graphopt-export

BIN := $(VENV)/bin
SOURCES := pyproject.toml LICENSE README.md $(shell find graphopt -type f -not -path '*/__pycache__/*')
# Nothing of the source folder may shadow the installed package, in child processes either.
INSTALLED := env PYTHONSAFEPATH=1 GRAPHOPT_EXPECT_WHEEL=1
SOURCE := env PYTHONPATH=$(CURDIR)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-devices test-export lint types pass-is-named check new-pass wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/wheel-installed ## build, install, and optimize the model that comes along
	$(INSTALLED) $(BIN)/graphopt demo

test: $(VENV)/wheel-installed ## build, install, and test the installed package
	$(INSTALLED) $(BIN)/python -m pytest $(PYTEST_ARGS)

test-devices: $(VENV)/wheel-installed ## test bundles on ARM64 (emulated), Node.js, a browser, over SSH: DEVICES=FOLDER
	@$(BIN)/python tools/devices.py '$(DEVICES)'
	$(INSTALLED) GRAPHOPT_DEVICES='$(DEVICES)' $(BIN)/python -m pytest $(PYTEST_ARGS) tests/devices

test-export: $(VENV)/wheel-installed ## test exports from PyTorch, Hugging Face, scikit-learn: EXPORT=FOLDER
	@$(BIN)/python tools/export_environment.py '$(EXPORT)'
	$(INSTALLED) GRAPHOPT_EXPORT='$(EXPORT)' $(BIN)/python -m pytest $(PYTEST_ARGS) tests/export tests/deploy/test_exporting.py

lint: $(VENV)/dependencies-installed ## style, format, and which room may import which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(SOURCE) $(BIN)/lint-imports

types: $(VENV)/dependencies-installed ## mypy --strict
	$(SOURCE) $(BIN)/mypy

# First of all, and not after an environment that takes minutes.
pass-is-named:
	@test -n "$(PASS)" || { echo 'usage: make check PASS=fold-constants' >&2; exit 2; }

check: pass-is-named $(VENV)/dependencies-installed ## goldens, laws and docstring of one pass: make check PASS=fold-constants
	$(SOURCE) $(BIN)/python -m pytest tests/passes tests/laws -k '$(PASS) or $(subst -,_,$(PASS)) or $(subst -,,$(PASS))'

new-pass: ## the two files of a new pass: make new-pass NAME=fold-transposes
	@test -n "$(NAME)" || { echo 'usage: make new-pass NAME=fold-transposes' >&2; exit 2; }
	@$(PYTHON) tools/new_pass.py '$(NAME)'

wheel: $(VENV)/dependencies-installed ## build the wheel into dist/
	@rm -rf build dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/dependencies-installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed; set PYTHON=...' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo '$(PYTHON) is older than Python 3.11; set PYTHON=...' >&2; exit 2; }
	@echo 'making the environment in $(VENV) (a few minutes, once)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet '.[test]'
	@$(BIN)/pip uninstall --quiet --yes graphopt
	@rm -f $(VENV)/wheel-installed
	@touch $@

$(VENV)/wheel-installed: $(VENV)/dependencies-installed $(SOURCES)
	@echo 'building and installing the wheel'
	@rm -rf build dist
	@$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	@$(BIN)/pip install --quiet --no-deps --force-reinstall dist/graphopt-*.whl
	@touch $@
