# `make quickstart` and `make test` need Python 3.11 or newer and make, nothing else.
#   make quickstart [DATA=folder] [ARGS="--steps 500"]   train, evaluate, export and report a small SigLIP
#   make test [TF=2.20]                                  the fast tests, with another TensorFlow if named
#   make test-slow                                       what takes minutes or needs the interop extra
#   make lint / make format                              ruff and mypy: style, layout, and types
#   make docs                                            the pages, in build/site
#   make package                                         the wheel, in dist/, and a check of what it holds
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TF ?= 2.21
VENV := .venv$(if $(filter-out 2.21,$(TF)),-tf$(TF))
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
WORKERS := --numprocesses 2 --dist loadfile
PINS := "tensorflow==$(TF).*" "tensorflow-text==$(TF).*"

.PHONY: quickstart test test-slow lint format docs package

quickstart: $(VENV)/.installed
	$(BIN)/python -m recipes.quickstart $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-slow: $(VENV)/.installed-slow
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Wrote build/site/index.html"

package: $(VENV)/.installed-test
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python .ci/check_wheel.py dist/*.whl

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing siglip_tf into $(VENV) (TensorFlow $(TF); a few minutes the first time)"
	$(PIP) --editable . $(PINS)
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need, the TPU compiler included"
	$(PIP) --editable ".[test,compiler]" $(PINS)
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) --editable ".[docs]" $(PINS)
	touch $@

$(VENV)/.installed-slow: $(VENV)/.installed-test
	$(PIP) --editable ".[test,compiler,interop,onnx]" $(PINS)
	touch $@
