# `make` lists what there is. Everything is incremental: the second time is quick and quiet.
#   GGML_DIR=DIR    a ggml of your own (a prefix, or the folder of ggml-config.cmake)
#   PREFIX=DIR      where `make install` puts things (default /usr/local)
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
PREFIX ?= /usr/local
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export GGML_DIR
export NINJA_STATUS = [%f/%t] 
ifeq ($(GGML_DIR),)
unexport GGML_DIR
endif

.DEFAULT_GOAL := help
.PHONY: help setup build demo test check format bench bench-long peers second-model install clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1:\2/p' Makefile | awk -F: '{ printf "make %-13s%s\n", $$1, $$2 }'

setup: ## install what is needed: Debian packages, ggml, the default model
	@scripts/setup.sh

build: setup ## the library, the program, the tests (build/release)
	@scripts/build.sh release

demo: setup ## hide a fact in a long document, keep a quarter of the cache, find the fact
	@scripts/build.sh release bin/pith
	@scripts/demo.sh

test: build ## everything that must pass
	@scripts/setup.sh --tests
	@ctest --preset release

check: ## format, clang-tidy, sanitizers, fuzzers
	@scripts/setup.sh --check
	@scripts/check.sh

format: ## put the sources into the house format
	@scripts/setup.sh --check
	@git ls-files '*.h' '*.cc' | xargs clang-format -i

bench: build ## speed and memory in minutes, beside llama.cpp if `make peers` was run
	@scripts/bench.sh

bench-long: build ## the same and models of 8B shape, with plots (an hour, 16 GB of memory)
	@scripts/bench-long.sh

peers: ## install llama.cpp into .venv-peers, to measure against (8 minutes)
	@scripts/setup.sh --peers
	@scripts/build.sh release

second-model: ## Qwen2.5-Coder-0.5B into models/, a second model to measure on (491 MB)
	@scripts/second_model.sh

install: build ## libpith, headers, the program and a CMake package to PREFIX
	@cmake --install build/release --prefix "$(PREFIX)" | grep -v Up-to-date || true

clean: ## remove build/ (not .venv, .deps, models)
	@rm -rf build
