# dcfast: the two commands of the README, and those of a developer. `make help` lists them.
# Set-up is done where it is missing and skipped where it is there.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
RUN_ARGS ?=
BIN := $(VENV)/bin
SOURCES := $(shell find csrc cmake CMakeLists.txt pyproject.toml -type f 2>/dev/null)
# What a build from source needs of the system, as Debian and Ubuntu name it.
DEBIAN := g++ python3-dev python3-venv libjpeg-dev libpng-dev libwebp-dev libsimdjson-dev libxxhash-dev
DEBIAN_TEST := wordnet-base wordnet-sense-index

.PHONY: help run test lint cpp asan tsan wheel bench clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 10

run: $(VENV)/.run  ## set up, then run the main job on the built-in world; the report is runs/tiny/report.html
	$(BIN)/python -m dcfast.run --scale tiny --out runs/tiny $(RUN_ARGS)

test: $(VENV)/.test  ## set up, then run all tests (also the C++ ones)
	$(BIN)/python -m pytest -n 2 $(TEST_ARGS)

lint: $(VENV)/.lint  ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

cpp: $(VENV)/.test  ## build with warnings as errors and run the C++ tests
	PATH="$(abspath $(BIN)):$$PATH" cmake --preset dev && PATH="$(abspath $(BIN)):$$PATH" cmake --build --preset dev && ctest --preset dev

asan tsan: $(VENV)/.test  ## the C++ tests under sanitizers
	PATH="$(abspath $(BIN)):$$PATH" cmake --preset $@ && cmake --build --preset $@ && ctest --preset $@

clean:  ## remove what was built (not runs/)
	rm -rf build dist $(VENV)

# --- set-up ---------------------------------------------------------------------------------------
$(VENV)/.system:
	PACKAGES="$(DEBIAN)" PYTHON="$(PYTHON)" sh cmake/system_packages.sh
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	touch $@

$(VENV)/.run: $(VENV)/.system $(SOURCES)
	$(BIN)/python -m pip install -q -e '.[run]'
	touch $@
