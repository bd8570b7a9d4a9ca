# make setup | demo | test | test-slow | check | clean
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c '' 2>/dev/null && echo python3.12 || echo python3)
BIN := .venv/bin
READY := .venv/ready

.PHONY: setup demo test test-slow check format clean

setup: $(READY)

# Made anew when the requirements change; the stamp is the last thing written.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/lglm flow train-lglm --source toy --out demo --weights none --backbone resnet18 --image-size 96 \
		--epochs 12 --batch-size 32 --lr 1e-3 --num-workers 2

test: check
	$(BIN)/python -m pytest -m 'not slow' -n 2

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo build dist .mypy_cache .pytest_cache .ruff_cache
