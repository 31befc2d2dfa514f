# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else; a second run starts at once.
PYTHON ?= python3
PORT ?= 7860
VENV ?= .venv
SECONDS ?= 300
CLIENTS ?= 8
MARKS ?= not gpu
BIN := $(VENV)/bin

.PHONY: help demo test test-all test-gpu fuzz load space-check hashes audit licences lint clean

help:
	@echo "make demo       start the page on http://127.0.0.1:$(PORT)"
	@echo "make test       run the quick tests"
	@echo "make test-all   run all tests but those that need a GPU; browser tests need chromium"
	@echo "make test-gpu   run the tests that need a CUDA device"
	@echo "make fuzz       throw hostile pictures at every entrance for SECONDS=$(SECONDS)"
	@echo "make load       let CLIENTS=$(CLIENTS) use the page at once for SECONDS=$(SECONDS)"
	@echo "make space-check SPACE=owner/name   check the folder as a Hugging Face Space would"
	@echo "make lint       check style, formatting, types and the direction of imports"
	@echo "make hashes     write the SHA-256 of the bundled weights anew, after replacing some"
	@echo "make audit      look up known vulnerabilities of what is installed (needs a network)"
	@echo "make licences   list the licences of what is installed"
	@echo "make clean      remove $(VENV)"
	@echo "PYTHON=python3.12, PORT=8000 or VENV=folder change the defaults."

demo: $(VENV)/.installed
	GRADIO_SERVER_PORT=$(PORT) $(BIN)/python app.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "$(MARKS)"

test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m gpu

fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/robustness/fuzz.py --seconds $(SECONDS)

load: $(VENV)/.installed-dev
	$(BIN)/python tests/robustness/load.py --clients $(CLIENTS) --seconds $(SECONDS)

space-check: $(VENV)/.installed
	$(BIN)/python -m map_pipeline.ui.space_check $(if $(SPACE),--space $(SPACE))

hashes: $(VENV)/.installed
	$(BIN)/python -m map_pipeline.checksums

# Both tools get an environment of their own and look at ours from outside.
audit: $(VENV)/.installed $(VENV)-tools/.installed
	$(VENV)-tools/bin/pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

licences: $(VENV)/.installed $(VENV)-tools/.installed
	$(VENV)-tools/bin/pip-licenses --python=$(BIN)/python --format=markdown

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(VENV)-tools

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

$(VENV)-tools/.installed: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-tools
	$(VENV)-tools/bin/python -m pip install --quiet --disable-pip-version-check pip-audit pip-licenses
	touch $@
