PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
# two processes, a test file in one of them: half the time on two cores; the commands that tests start are compiled once
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile
STAMP := $(VENV)/.installed

.PHONY: demo docs test test-long test-oldest check lint tests bench notebooks format clean

# uv when it is there (seconds), else the interpreter's own pip.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --allow-existing --python $(PYTHON) $(VENV) && uv pip install --python $(BIN)/python -c $(CONSTRAINTS) -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[dev]'; \
	fi
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/boxwright demo

test: lint tests

tests: $(STAMP)
	$(PYTEST)

test-long: lint
	$(PYTEST) -m "slow or not slow"

# the same tests on the oldest versions that pyproject.toml allows, in an environment of their own
test-oldest:
	mkdir -p .venv-oldest
	$(PYTHON) tests/lower_bounds.py pyproject.toml > .venv-oldest/constraints.txt
	$(MAKE) tests VENV=.venv-oldest CONSTRAINTS=.venv-oldest/constraints.txt

check: lint
	$(PYTEST) -m "not slow and not e2e"

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# runs every notebook (minutes) and writes it, with what it printed and drew, as .ipynb and .html into build/notebooks
notebooks: $(STAMP)
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --python $(BIN)/python -c $(CONSTRAINTS) -e '.[notebooks]'; \
	else \
	  $(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[notebooks]'; \
	fi
	mkdir -p build/notebooks
	for file in notebooks/*.py; do \
	  $(BIN)/python -m jupytext --to ipynb --execute --output build/$${file%.py}.ipynb $$file && \
	  $(BIN)/python -m nbconvert --to html build/$${file%.py}.ipynb || exit 1; \
	done

# the docs site, to be opened from the disk: build/site/index.html
docs: $(STAMP)
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --python $(BIN)/python -c $(CONSTRAINTS) -e '.[docs]'; \
	else \
	  $(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[docs]'; \
	fi
	$(BIN)/python docs/site/build.py $(DOCS)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-oldest .pytest_cache .mypy_cache .ruff_cache
