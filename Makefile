# Every target sets up what it needs in $(VENV) by itself; Python 3.11+ and make are all a machine must have.
PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?=
# What mypy checks in full: the public API, the language of the IR, everything that reads untrusted files.
TYPED := -m ingot -m ingot._aliases -m ingot.driver -m ingot.export -p ingot.ir -p ingot.frontend.serialization \
         -m ingot.codegen.onnx_export -m ingot.runtime.findings
BIN := $(VENV)/bin

.PHONY: help demo test slow parity lint types bench clean
help:
	@echo "make demo    train, compile, run and export a small network on real digits"
	@echo "make test    the test suite        (PYTEST_ARGS=... is passed on)"
	@echo "make slow    the long tests (large networks, many random ones), which make test leaves out"
	@echo "make parity  the comparisons with PyTorch; installs torch"
	@echo "make lint    ruff;  make types    mypy"
	@echo "make bench   the benchmark tables beside onnxruntime, and OpenVINO and PyTorch if they are installed"

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; Ingot needs Python 3.11 or newer (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "make: Ingot needs Python 3.11 or newer, $(PYTHON) is %d.%d (set PYTHON=...)" % v[:2])'
	$(PYTHON) -m venv $(VENV)

# One stamp per set of dependencies; pyproject.toml is what they depend on.
$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench,mpi,vision]'
	@touch $@ $(VENV)/.run
$(VENV)/.parity: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench,mpi,vision,parity]'
	@touch $@ $(VENV)/.dev $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m slow $(PYTEST_ARGS)

parity: $(VENV)/.parity
	$(BIN)/python -m pytest -n 2 -m parity $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .

# mypy takes a module's name from the folders above it; the link gives this folder the name of the package.
types: $(VENV)/.dev
	@mkdir -p $(VENV)/typing && ln -sfn "$(CURDIR)" $(VENV)/typing/ingot
	MYPYPATH=$(VENV)/typing $(BIN)/mypy --config-file pyproject.toml $(TYPED)

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py --threads 2 --minutes 25 --out build/benchmarks.jsonl

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
