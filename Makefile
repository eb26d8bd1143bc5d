# The commands that people type. `make help` lists them. Everything goes into .venv and build/.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
CUDA_TARGET ?= cuda:sm_90
BENCH_JSON ?= build/bench.json
GENERATION ?= build/generation
PY := $(VENV)/bin/python
export PATH := $(abspath $(VENV))/bin:$(PATH)
TORCH := torch==2.13.0
CMAKE ?= cmake

PYTHON_SOURCES := python tests benchmarks examples/python examples/demo.py
NATIVE := $(wildcard CMakeLists.txt) $(shell find runtime kernels cmake -type f 2>/dev/null)
CPP := $(shell find runtime kernels examples tests -name '*.cpp' -o -name '*.cc' -o -name '*.c' -o -name '*.h' -o -name '*.hpp' -o -name '*.cu' 2>/dev/null)
# What this machine's compiler commands cover: files of other architectures are left out of them.
TIDY := $(filter-out %_neon.cpp %_neon_dotprod.cpp %_neon_i8mm.cpp,$(shell find runtime/src kernels -name '*.cpp' -not -path 'kernels/cuda/*' 2>/dev/null))

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-all test-fast test-aarch64 test-sanitize cuda cuda-models test-cuda bench-cuda sanitize-cuda lint format bench report bench-generation clean

help: ## list these commands
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(VENV)/.built ## make .venv with Ingot and everything that tests and benchmarks need

# torch comes first and by itself, so that nothing else decides which build of it is installed.
$(VENV)/.installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install $(TORCH)
	$(PY) -m pip install scikit-build-core nanobind apache-tvm-ffi cmake ninja
	touch $@

$(VENV)/.built: $(VENV)/.installed $(NATIVE)
	$(PY) -m pip install --no-build-isolation --editable '.[compile,export,run,dev]'
	touch $@

build: $(VENV)/.built ## build a wheel into dist/
	$(PY) -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

demo: setup ## compile the MiniLM sentence encoder and run it from Python and from C
	$(PY) examples/demo.py

test: setup ## a test of everything
	$(PY) -m pytest -n $(JOBS) --dist loadgroup -m "not extended" tests

test-all: setup ## these tests, models of real size, and more cases of the same
	$(PY) -m pytest -n $(JOBS) --dist loadgroup tests

test-fast: setup ## the tests of `make test` that compile no large model
	$(PY) -m pytest -n $(JOBS) --dist loadgroup -m "not slow and not extended" tests

test-aarch64: setup ## the tests that run code for aarch64 under qemu, which `make test` runs too; libingot is cross-compiled into build/aarch64
	$(PY) -m pytest -n $(JOBS) --dist loadgroup tests/levels -k aarch64

test-sanitize: setup ## the tests of runtime and kernels with AddressSanitizer and UndefinedBehaviorSanitizer in libingot, built into build/sanitize
	JOBS=$(JOBS) $(PY) tests/sanitized.py

cuda: ## build the CUDA kernels into build/cuda with nvcc, for all GPUs; CUDA_ARCHITECTURES=90a-real for one
	$(CMAKE) -S . -B build/cuda -DINGOT_BUILD_CUDA=ON $(if $(CUDA_ARCHITECTURES),-DINGOT_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)")
	$(CMAKE) --build build/cuda --parallel $(JOBS) --target ingot_cuda ingot_cuda_checks

cuda-models: setup ## compile with nvcc what tests and benchmarks of models on a GPU read, into build/cuda-models; CUDA_TARGET=cuda:sm_80 for another GPU
	$(PY) -m tests.runtime.gpu.make
	$(PY) -m tests.lower.cuda.gpu.make $(CUDA_TARGET)
	$(PY) -m benchmarks.cuda.make_models $(CUDA_TARGET)

test-cuda: ## tests of CUDA kernels: on a GPU after `make cuda` (needs no .venv), else emulated
	$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m pytest --confcutdir=tests/cuda -p no:cacheprovider -n $(JOBS) tests/cuda

bench-cuda: ## tests and benchmarks of CUDA kernels and models on a GPU, after `make cuda cuda-models`; needs no .venv
	PYTHON=$(if $(wildcard $(PY)),$(PY),$(PYTHON)) tests/cuda/device.sh

sanitize-cuda: ## a case of each path of the CUDA kernels under compute-sanitizer, on a GPU, after `make cuda`; needs no .venv
	PYTHON=$(if $(wildcard $(PY)),$(PY),$(PYTHON)) tests/cuda/device.sh sanitize

lint: setup ## ruff, mypy, clang-format and clang-tidy, changing nothing
	$(PY) -m ruff check $(PYTHON_SOURCES)
	$(PY) -m mypy
	clang-format --dry-run --Werror $(CPP)
	echo $(TIDY) | xargs -P $(JOBS) -n 4 clang-tidy -p $$(dirname $$(ls build/cp*/compile_commands.json | head -1)) --quiet

format: setup ## sort imports, fix what ruff can, format C and C++
	$(PY) -m ruff check --fix $(PYTHON_SOURCES)
	clang-format -i $(CPP)

bench: setup ## compare with the runtimes that are installed, on the models of tests/models/zoo.py; BENCH="-k bert" picks some
	mkdir -p build
	$(PY) -m pytest benchmarks --benchmark-only --benchmark-sort=name --benchmark-json=$(BENCH_JSON) $(BENCH)

report: ## write docs/performance.md and .svg from what `make bench` measured (BENCH_JSON: one or several reports)
	$(PY) -m benchmarks.report $(BENCH_JSON) docs/performance.md

bench-generation: setup ## measure generated text beside llama.cpp and onnxruntime and write its page; MEASURE="int4 ring" picks some
	$(PY) -m benchmarks.generation $(GENERATION) --measure $(MEASURE) --write

clean: ## remove build outputs, keep .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find python tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f $(VENV)/.built
