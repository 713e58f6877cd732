# Each target sets itself up: a fresh machine needs only python3 (3.11 or newer) with venv, and make.
PYTHON ?= python3
VENV   ?= .venv
# Tests wait for their children as much as they compute, so that three at a time keep two cores busy. They start hundreds of
# interpreters, each of which would compile procbench anew where bytecode may not be written.
WORKERS ?= 3
BIN    := $(VENV)/bin

# The pins hold for what builds procbench too (pip reads the second name from 25.3 on).
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := $(PIP_CONSTRAINT)

.PHONY: report test ladder lab bench check docs clean
.DELETE_ON_ERROR:

report: $(VENV)/.report-ready  ## measure this machine and write reports/latest/index.html
	$(BIN)/procbench report $(ARGS)

lab: $(VENV)/.report-ready  ## open JupyterLab on the notebooks
	$(BIN)/procbench lab $(ARGS)

test: $(VENV)/.test-ready  ## every test, every notebook
	unset PYTHONDONTWRITEBYTECODE; \
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS) || \
	{ test $$? -eq 1 && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none $(ARGS); }

ladder: $(VENV)/.test-ready  ## the queues' and the thieves' ladders with a million items for each seed; takes a while
	PROCBENCH_LADDER=1 $(BIN)/python -m pytest tests/test_queue_ladder.py tests/test_stealing_ladder.py $(ARGS)

bench: $(VENV)/.test-ready  ## ratios against peers and against the same system calls in C; wants a quiet machine
	$(BIN)/python -m benchmarks $(ARGS)

check: $(VENV)/.test-ready  ## style, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs-ready  ## pages from docstrings and notebooks, docs/_build/html/index.html
	$(BIN)/python -m sphinx --jobs auto --fail-on-warning --keep-going --builder html docs docs/_build/html $(ARGS)

clean:
	rm -rf $(VENV)

# The stamps keep a second call from installing again until the pins change.
$(VENV)/.report-ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "procbench needs Python 3.11 or newer; name one with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test-ready: $(VENV)/.report-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/.docs-ready: $(VENV)/.report-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@
