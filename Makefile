# Two commands on a fresh machine: `make demo` and `make test`. Each does all its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without byte-compiling all of PyTorch and others: what is imported is compiled then.
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE
# Lint and tests run side by side.
MAKEFLAGS += --jobs=2

.PHONY: demo test pytest docs lint format clean

demo: $(VENV)/.installed
	$(BIN)/joulewise demo --out demo
	@echo "To use joulewise in this shell: . $(BIN)/activate"

test: lint pytest

pytest: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto

docs: $(VENV)/.installed-docs
	@echo "Building the site, with its examples (three minutes)"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs build/docs
	@echo "The site: build/docs/index.html"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing joulewise into $(VENV) (a minute or two the first time)"
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing joulewise and its development tools into $(VENV) (a minute or two the first time)"
	$(PIP) --editable ".[dev]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing joulewise and what builds its site into $(VENV) (a minute or two the first time)"
	$(PIP) --editable ".[docs]"
	touch $@ $(VENV)/.installed
