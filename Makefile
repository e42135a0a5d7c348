# Every target sets up what it needs: a stranger has only Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-matrix chaos soak lint format bench lock clean

install: $(STAMP)

$(STAMP): pyproject.toml requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/bridge-cli demo

# Neighbours share a daemon, so each process takes a stretch of them. Three keep two processors busy; tests that look at
# the time are marked `alone`.
test: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist worksteal

# Every supported Python that is here, with the oldest and the newest DSPy allowed.
test-matrix: $(STAMP)
	$(BIN)/python -m tests.matrix

# Three minutes at most. CHAOS_SEED=n repeats a run.
chaos: $(STAMP)
	CHAOS=full $(BIN)/python -m pytest -rP tests/daemon/test_chaos.py

# Ten minutes, or SOAK_SECONDS=n.
soak: $(STAMP)
	SOAK_SECONDS=$${SOAK_SECONDS:-600} $(BIN)/python -m pytest -rP tests/daemon/test_soak.py

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Peers that are not installed are left out of the table; `pip install -e .[bench]` brings them.
bench: $(STAMP)
	$(BIN)/python -m tests.bench

# Pins every dependency, for all supported Pythons, after a change of pyproject.toml.
lock:
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) -m uv pip compile --quiet --universal --python-version 3.10 --extra dev --no-emit-index-url \
	  --no-emit-find-links --no-header --output-file requirements-dev.txt pyproject.toml

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
