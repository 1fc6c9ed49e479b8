# SPDX-License-Identifier: Apache-2.0
# The commands of this house; CI calls these and nothing else. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BASE_PYTHON ?= python3
PYTHON := $(VENV)/bin/python
# An environment variable, because `pip -c` does not reach isolated build environments.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

DEPENDENCIES := $(VENV)/.dependencies
CORE := $(VENV)/.core
CXX_FILES := $(shell find native src/thinmaps -name '*.cc' -o -name '*.h')
PYTHON_FILES := src tests tools $(wildcard benchmarks examples papers)
# Two builds at a time would write the same files; macOS has no flock and builds without.
LOCK := $(if $(shell command -v flock),flock build/build.lock)
INSTALL_CORE = mkdir -p build && $(LOCK) $(PYTHON) -m pip install -q --no-deps \
	--no-build-isolation -Cbuild-dir=build/editable -Ceditable.mode=redirect -e .

.PHONY: help setup build check format test native native-arm hostile fuzz bench bench-limits bench-memory bench-accuracy \
	bench-codecs bench-learning bench-weights bench-normalisation papers bench-kernels bench-sparse bench-coded bench-bits bench-fused bench-winograd \
	bench-winograd-exact docs size demo \
	examples sanitize clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 18

setup: $(CORE) ## .venv with the package and its tools; needs Python >= 3.11 with venv, and g++

$(PYTHON):
	$(BASE_PYTHON) -m venv $(VENV)

$(DEPENDENCIES): pyproject.toml constraints.txt tools/dependencies.py | $(PYTHON)
	$(PYTHON) -m pip install -q -r <($(PYTHON) tools/dependencies.py compress learn dev)
	@touch $@

$(CORE): $(DEPENDENCIES) CMakeLists.txt $(CXX_FILES)
	@$(INSTALL_CORE)
	@touch $@

build: $(DEPENDENCIES) ## the native module into .venv (setup does it too, where C++ changed)
	@$(INSTALL_CORE)
	@touch $(CORE)

check: setup ## formats, lint, types, import contracts, size limits
	$(PYTHON) -m ruff format --check $(PYTHON_FILES)
	$(PYTHON) -m ruff check $(PYTHON_FILES)
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)
	$(PYTHON) tools/size_table.py --limits

format: setup ## what check would refuse about layout, mended
	$(PYTHON) -m ruff format $(PYTHON_FILES)
	$(VENV)/bin/clang-format -i $(CXX_FILES)

JOBS ?= auto
test: setup ## the whole suite, JOBS at a time; OPTIONS="-k engine" narrows it
	$(PYTHON) -m pytest -n $(JOBS) $(OPTIONS)

hostile: setup ## damaged and hostile files only
	$(PYTHON) -m pytest tests/hostile $(OPTIONS)

SECONDS_TO_FUZZ ?= 60
fuzz: setup ## damaged .thin files for a minute; SECONDS_TO_FUZZ=300 for five
	$(PYTHON) tests/hostile/fuzz_file.py --seconds $(SECONDS_TO_FUZZ)

native: $(DEPENDENCIES) ## the C++ core alone, without Python, and its test
	$(VENV)/bin/cmake -S . -B build/native -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(VENV)/bin/ninja \
	  -DTHINMAPS_PYTHON=OFF
	$(VENV)/bin/cmake --build build/native
	$(VENV)/bin/ctest --test-dir build/native --output-on-failure

# Debian: apt-get install g++-aarch64-linux-gnu qemu-user
native-arm: $(DEPENDENCIES) ## the same for ARM: cross-compiled, its tests in an emulator
	@if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then \
	  echo "skipped: building for ARM needs aarch64-linux-gnu-g++, and testing it qemu-aarch64"; \
	else \
	  $(VENV)/bin/cmake -S . -B build/native-arm -G Ninja -DTHINMAPS_PYTHON=OFF \
	    -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(VENV)/bin/ninja \
	    -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake && \
	  $(VENV)/bin/cmake --build build/native-arm && \
	  $(VENV)/bin/ctest --test-dir build/native-arm --output-on-failure; \
	fi

# The sanitised module goes into an environment of its own that borrows the packages of .venv.
# Without -s the report of a worker that aborts would be lost.
SANITIZED := build/sanitized
sanitize: setup ## tests that cross into C++, under AddressSanitizer and UBSan, JOBS at a time
	test -x $(SANITIZED)/bin/python || $(BASE_PYTHON) -m venv --without-pip $(SANITIZED)
	$(PYTHON) tools/borrow_packages.py $(SANITIZED)
	$(SANITIZED)/bin/python -m pip install -q --no-deps --no-build-isolation --force-reinstall \
	  -Cbuild-dir=build/sanitize -Ccmake.define.THINMAPS_SANITIZE=ON -Cinstall.strip=false .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(SANITIZED)/bin/python -m pytest -n $(JOBS) -s -p no:cacheprovider \
	  tests/contracts tests/run tests/hostile tests/winograd $(OPTIONS)

bench: setup ## time and memory beside peers, answers verified; OPTIONS=--markdown as in the README
	$(PYTHON) benchmarks/speed.py $(OPTIONS)

bench-limits: setup ## where our time goes, and what the machine's rates would allow
	$(PYTHON) benchmarks/limits.py $(OPTIONS)

bench-winograd-exact: setup ## exact Winograd convolutions beside direct ones; --peer for oneDNN
	$(PYTHON) benchmarks/winograd_exact.py $(OPTIONS)

bench-sparse: setup ## convolutions that skip zero blocks of their filters, beside those that do not
	$(PYTHON) benchmarks/sparse.py $(OPTIONS)

bench-coded: setup ## filters made of coefficients, beside the same filters stored
	$(PYTHON) benchmarks/coded.py $(OPTIONS)

bench-fused: setup ## a convolution between encoded maps, beside plain ones and oneDNN
	$(PYTHON) benchmarks/fused.py $(OPTIONS)

bench-memory: setup ## the memory table of the README
	$(PYTHON) benchmarks/memory.py $(OPTIONS)

bench-kernels: setup ## convolutions beside oneDNN (PyTorch), codecs beside memcpy
	$(PYTHON) benchmarks/kernels.py $(OPTIONS)

bench-bits: setup ## layers of bits beside what counting bits allows, presets beside convolutions
	$(PYTHON) benchmarks/gf2.py $(OPTIONS)

bench-winograd: setup ## Winograd convolutions and ResNet-18 with them, beside oneDNN and others
	$(PYTHON) benchmarks/winograd_kernels.py $(OPTIONS)

bench-codecs: setup ## all codecs on real networks: ratio, drop; OPTIONS=--markdown as in docs/codecs.md
	$(PYTHON) benchmarks/codecs.py $(OPTIONS)

bench-learning: setup ## codecs that learn in a network: OPTIONS="rans --bits 1.13 --rate-weight 1.2"
	$(PYTHON) benchmarks/learning.py $(OPTIONS)

bench-weights: setup ## weight methods in ResNet-20: OPTIONS="--methods balanced sr-ste --soft 300"
	$(PYTHON) benchmarks/weights.py $(OPTIONS)

bench-normalisation: setup ## normalisation by constraints beside batch and group norms, small batches
	$(PYTHON) benchmarks/normalisation.py $(OPTIONS)

papers: setup ## published figures beside ours; fails where ours have moved
	for run in papers/*/run.py; do $(PYTHON) $$run; done

bench-accuracy: setup ## the accuracy table of the README
	$(PYTHON) benchmarks/accuracy.py $(OPTIONS)

docs: setup ## run every code block of README and docs
	$(PYTHON) -m pytest tests/test_house_documents.py $(OPTIONS)

size: ## lines of functions and files, and the change against main
	@python3 tools/size_table.py

demo: setup ## the whole main job on data that ships; ends with demo-out/*.html
	$(VENV)/bin/thinmaps demo -o demo-out

examples: setup ## a 4K picture in 2 MB, beside tiles and ONNX Runtime; OPTIONS=--no-peer is quicker
	$(PYTHON) examples/seamless_4k.py -o seamless-out $(OPTIONS)

clean: ## what was built, .venv included
	rm -rf build dist demo-out seamless-out $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage
