# The first two commands a newcomer types: `make repro` and `make test`. Both set up what they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed
# stages call `python`: it has to be the environment's
export PATH := $(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: repro compare smoke fashion table10 bench reliability gpu-check test check lint types fast test-slow test-gpu study ui dashboard format lock clean

repro: $(INSTALLED)  ## environment, then the embedded default through DVC; does nothing the second time
	dvc repro

smoke: $(INSTALLED)  ## the whole pipeline at toy size, in one process
	rm -rf experiments/smoke/outputs experiments/smoke/results
	python -m attndistill pipeline --experiment experiments/smoke

fashion: $(INSTALLED)  ## Fashion-MNIST, a real public set (experiments/fashion_mnist/README.md): an hour and a half on 2 cores
	dvc --cd experiments/fashion_mnist repro

table10: $(INSTALLED)  ## the paper's ablation table in miniature (experiments/table10/README.md): two hours on 2 cores
	dvc --cd experiments/table10 repro

# two processes more than the cores: many tests wait for servers, workers and kills; a file's fixtures are made once
test: $(INSTALLED)  ## every test but the slow and the GPU ones
	python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

check: lint types fast  ## format, lint, types and the tests that start no other program

lint: $(INSTALLED)
	ruff format --check .
	ruff check .

types: $(INSTALLED)
	mypy

fast: $(INSTALLED)
	python -m pytest -n 2 -m "not slow and not gpu and not drivers"

test-slow: $(INSTALLED)  ## minutes each: large trees, full-size models
	python -m pytest -m slow

test-gpu: $(INSTALLED)  ## needs a CUDA device
	python -m pytest -m gpu

bench: $(INSTALLED)  ## times beside the published algorithm and other libraries (docs/performance.md); wants a quiet machine
	python -m benchmarks

reliability: $(INSTALLED)  ## what is promised and what shows it, run and counted (docs/reliability.md)
	python -m benchmarks.reliability

gpu-check: $(INSTALLED)  ## all that a GPU has to show, within 10 minutes on one: its tests, step times, resuming, the loader
	python -m benchmarks.gpu

compare: $(INSTALLED)  ## DVC's experiments: the settings and figures that differ
	python -m attndistill compare

study: $(INSTALLED)  ## the default search: lambda, T and the depth of P; goes on where it was stopped
	python -m attndistill study search/default.yaml -j 2

ui dashboard: $(INSTALLED)  ## MLflow's pages and the dashboard of the studies on 127.0.0.1, until Ctrl-C
	python -m attndistill ui

format: $(INSTALLED)
	ruff format .
	ruff check --fix .

lock:  ## new versions of everything, plain name==version lines (needs uv)
	uv pip compile --upgrade --python-version 3.11 --no-header --no-annotate --group dev pyproject.toml \
	  -o requirements.lock

clean:  ## remove what the pipeline made; DVC's cache and the tracking store stay
	rm -rf outputs .work experiments/*/outputs experiments/*/.work

# uv when there is one, else pip. Byte code is compiled once here: importing torch without it takes twice as long.
$(INSTALLED): requirements.lock pyproject.toml
	@if command -v uv >/dev/null; then \
	  { [ -x $(BIN)/python ] || uv venv --python 3.11 $(VENV); } \
	  && uv pip install --python $(BIN)/python --compile-bytecode -r requirements.lock \
	  && uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
	  { [ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); } \
	  && $(BIN)/python -m pip install -r requirements.lock \
	  && $(BIN)/python -m pip install --no-deps --no-build-isolation -e .; \
	fi
	@touch $@
