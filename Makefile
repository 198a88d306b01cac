# The two commands: `make book` and `make test`. Each sets up .venv first.
SHELL := bash
.SHELLFLAGS := -eo pipefail -c
.DELETE_ON_ERROR:
.PHONY: book test lint types bench record serve install clean

PYTHON  ?= python3
PROFILE ?= quick
PORT    ?= 8000
BIN     := .venv/bin
READY   := .venv/.ready
NOTEBOOKS := $(wildcard book/*.ipynb)
# Two processes at a time, one thread each: see book/build.py.
export OMP_NUM_THREADS ?= 1

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("hesslab needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; set PYTHON=" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
ifdef TORCH_INDEX
	$(BIN)/python -m pip install -q -c constraints.txt torch torchvision --index-url $(TORCH_INDEX)
endif
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[book,test]'
	touch $@

book: $(READY)
	$(BIN)/python -m book.build --profile $(PROFILE)

# SLOW=1 adds the tests that take more than a few seconds.
test: lint types
	$(BIN)/python -m pytest -n 2 $(if $(SLOW),,-m "not slow")

# Code cells are 72 columns wide: what a page shows without scrolling.
lint: $(READY)
	$(BIN)/python -m ruff check --extend-exclude '*.ipynb' .
	$(BIN)/python -m ruff format --check --extend-exclude '*.ipynb' .
ifneq ($(NOTEBOOKS),)
	$(BIN)/python -m ruff check --line-length 72 $(NOTEBOOKS)
	$(BIN)/python -m ruff format --check --line-length 72 $(NOTEBOOKS)
	$(BIN)/python -m nbstripout --verify $(NOTEBOOKS)
endif
	$(BIN)/lint-imports

types: $(READY)
	$(BIN)/python -m mypy

# Each script measures one claim and writes benchmarks/results/; _*.py are their parts.
bench: $(READY)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[bench]'
	for script in $(sort $(wildcard benchmarks/[!_]*.py)); do $(BIN)/python $$script; done

# Long runs whose numbers the chapters draw; each script writes book/results/.
record: $(READY)
	for script in $(sort $(wildcard book/results/*.py)); do $(BIN)/python $$script; done

serve:
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

clean:
	rm -rf _build build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
