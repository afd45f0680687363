# `make demo` and `make test` set everything up by themselves; Python 3.11 and make are all they need.
# Another Python, 3.11 or later: make test PYTHON=python3.13
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One more than there are cores: some tests wait, for a browser or for processes that they stop.
WORKERS = $(shell $(BIN)/python -c "import os; print(len(os.sched_getaffinity(0)) + 1)" 2>/dev/null || echo auto)

# Every process would compile everything again where the environment forbids to keep it.
export PYTHONDONTWRITEBYTECODE =

.PHONY: check clean coverage demo dist docs format lint test

demo: $(READY)
	$(BIN)/stakes demo --out demo --overwrite

docs: $(READY)
	$(BIN)/mkdocs build --quiet --strict

# The inner loop: everything but the tests marked slow.
check: lint
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Tracing every branch slows all tests down, so `make test` does without.
coverage: $(READY)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal --cov --cov-report=term

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode \
		--constraint constraints.txt --editable . --group dev
	touch $@

# A wheel, tried in an empty environment: it installs, and its demonstration runs outside of the clone.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build
	$(PYTHON) -m venv dist/.try
	$(BIN)/uv pip install --quiet --python dist/.try/bin/python --constraint constraints.txt dist/*.whl
	cd dist/.try && bin/stakes demo --out ../demo
	test -s dist/demo/report.html
	rm -rf dist/.try dist/demo

clean:
	rm -rf $(VENV) demo dist site
