# Two commands do everything on a fresh machine (python3 with venv, a C++ compiler): make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/*.cpp csrc/*.h)

.PHONY: demo test lint build wheel clean

demo: build
	$(BIN)/nagfast demo --out demo-out

test: build lint
	$(BIN)/python -m pytest

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: $(VENV)/.built

$(VENV)/.installed: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "nagfast needs Python 3.11 or later, this is " + sys.version.split()[0] + "; use make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel pybind11
	touch $@

# Editable: the extension is built into nagfast/, kernels/ and benchmarks/ are found as nagfast.kernels and nagfast.benchmarks.
$(VENV)/.built: $(VENV)/.installed setup.py $(NATIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[dev]'
	touch $@

wheel: build
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .

clean:
	rm -rf build dist *.egg-info nagfast/_C*.so $(VENV)/.built
