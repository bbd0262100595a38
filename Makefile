PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# two processes, a test file in one of them: half the time on two cores
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile
STAMP := $(VENV)/.installed

.PHONY: demo test test-long check bench format clean

# uv when it is there (seconds), else the interpreter's own pip.
$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --allow-existing --python $(PYTHON) $(VENV) && uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
	  $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -c constraints.txt -e '.[dev]'; \
	fi
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/boxwright demo

test: $(STAMP)
	$(PYTEST)

test-long: $(STAMP)
	$(PYTEST) -m "slow or not slow"

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow and not e2e"

bench: $(STAMP)
	$(BIN)/python -m benchmarks

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
