# SPDX-License-Identifier: Apache-2.0
PYTHON ?= .venv/bin/python

.PHONY: build
build: ## the extension module, into the environment (run again after an edit of C++)
	@mkdir -p build
	@flock build/build.lock $(PYTHON) -m pip install -q --no-deps --no-build-isolation \
	  -Cbuild-dir=build/editable -Ceditable.mode=redirect -e .
