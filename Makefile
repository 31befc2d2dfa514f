# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else; a second run starts at once.
PYTHON ?= python3
PORT ?= 7860
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow lint clean

help:
	@echo "make demo       start the page on http://127.0.0.1:$(PORT)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the slow tests"
	@echo "make lint       check style and formatting"
	@echo "make clean      remove $(VENV)"
	@echo "PYTHON=python3.12, PORT=8000 or VENV=folder change the defaults."

demo: $(VENV)/.installed
	GRADIO_SERVER_PORT=$(PORT) $(BIN)/python app.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "MAP needs Python 3.11 or 3.12; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are written last, so an interrupted installation is taken up again.
$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
