# make demo    a fresh checkout to a serving plan: virtual environment, install, main job
# make test    the same environment with the test tools, then the tests (slow ones left out)
# make test-slow, lint, bench, docs, clean

SHELL := /bin/bash
PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev

.PHONY: demo test test-slow lint bench docs clean
.DELETE_ON_ERROR:

demo: $(CORE)
	$(BIN)/plimsoll plan llama-3.1-70b --on 8xH100-SXM --workload chat --ttft-p99 2s --tpot-p99 60ms

test: $(DEV)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slow: $(DEV)
	$(BIN)/python -m pytest -m 'slow and not timing' -n $(JOBS) --dist loadfile || [ $$? -eq 5 ]  # 5: none marked

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(DEV)
	set -e; for script in $(sort $(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script; done

docs: $(DEV)
	set -e; for script in $(sort $(wildcard scripts/write_*.py)); do echo "== $$script"; $(BIN)/python $$script; done
	$(BIN)/python scripts/check_docs.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -e . -c constraints.txt
	touch $@

# torch goes first, alone and pinned, so that its small CPU build is the one that is taken.
$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install torch==2.13.0 -c constraints.txt
	$(PIP) install -e '.[dev]' -c constraints.txt
	touch $(CORE) $@
