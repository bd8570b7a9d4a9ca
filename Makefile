# make setup | demo | quick | test | test-slow | chaos | bench | check | format | clean
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/ready
# On two cores; tests/conftest.py says which tests stay together.
PYTEST := $(BIN)/python -m pytest -n 2 $(PYTEST_OPTIONS)

.PHONY: setup demo quick test test-slow chaos bench check format clean

setup: $(READY)

# Made anew when the requirements change; the stamp is the last thing written.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/lglm flow train-lglm --config infra/demo.yaml --out demo

# A minute: what computes, without a process or a server.
quick: $(READY)
	$(PYTEST) -m 'not slow and not process and not weighty'

test: check
	$(PYTEST) -m 'not slow'

test-slow: $(READY)
	$(PYTEST) -m slow

# Hours: every kill, fault and mutation, of which the others run a diagonal.
chaos: $(READY)
	$(PYTEST) -m chaos

bench: $(READY)
	$(BIN)/python -m tests.benchmarks

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo build dist .mypy_cache .pytest_cache .ruff_cache
