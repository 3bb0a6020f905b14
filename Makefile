# `make` alone lists what there is. Everything runs in .venv, made from requirements.lock.

VENV := .venv
BIN := $(abspath $(VENV))/bin
PYTHON := $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.8
DEMO := build/demo
DIGITS := $(CURDIR)/examples/digits
BOARDS := gap8 stm32f7 nrf5340

export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env torch demo test check tools bench tune lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/.stamp ## Create .venv from the lock file and install clio-cc into it

$(VENV)/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "clio-cc needs Python 3.11, found " + sys.version)'
	@echo "Making $(VENV) with TVM, onnxruntime and the rest of requirements.lock (900 MB on disk; some minutes on a slow line)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# PyTorch is for training alone, so nothing but what trains asks for it. It comes by its version and without a hash: under
# one version there are builds for the CPU and for several CUDAs, each with a hash and further packages of its own, and which
# of them a machine should have is what its package index offers first. All that every build needs is in the lock file.
torch: $(VENV)/.torch ## Add PyTorch to .venv, for clio-cc train and its tests

$(VENV)/.torch: $(VENV)/.stamp
	@echo "Adding PyTorch to $(VENV) (0.8 GB on disk for the CPU build, several GB for a CUDA build)"
	@$(VENV)/bin/python -m pip install --quiet --no-build-isolation --editable '.[train]'
	@touch $@

# One step of the demo: shows the command as one would type it, then runs it.
run = @printf '\n$$ %s\n' '$(subst $(DIGITS),digits,$(1))' && cd $(DEMO) && $(1)

demo: env ## Compile the example for all three boards and check on this machine that every bit is right
	@rm -rf $(DEMO) && mkdir -p $(DEMO) && cp $(DIGITS)/digits.onnx $(DEMO)/model.onnx
	@printf '\nThe three commands, in a folder that holds only a model:\n'
	$(call run,clio-cc compile model.onnx --target gap8)
	$(call run,clio-cc profile)
	$(call run,clio-cc plan --bandwidth 50k:2M)
	@printf '\nThe same for every board with real data, then the C built and run here, every operator against the reference:\n'
	$(foreach board,$(BOARDS),$(call demo_board,$(board)))
	@printf '\nDone. $(DEMO)/ holds what was written for the three boards; start with $(DEMO)/clio-out-gap8/device/README.md.\n'

define demo_board
	$(call run,clio-cc compile model.onnx --target $(1) --calibration $(DIGITS)/digits-calibration.npz --out clio-out-$(1))
	$(call run,clio-cc verify clio-out-$(1) --data $(DIGITS)/digits-test.npz --board host)

endef

check: env ## Run ruff and mypy
	ruff format --check .
	ruff check .
	mypy

test: tools check torch ## Run all checks and tests, cross compilers and emulators included
	pytest -n 2

tools: ## Install cross compilers and emulators, or name those that are missing
	@.ci/tools

bench: env tools ## Run the benchmarks, but for training, which takes hours
	@for script in $(filter-out $(addprefix benchmarks/,documents.py networks.py trained_slices.py tuning.py),$(wildcard benchmarks/*.py)); do \
	    echo "$$script"; python "$$script" || exit 1; done

tune: env tools ## Measure the schedules of kernels anew, on the emulated boards (targets/*/schedules.json)
	python benchmarks/tuning.py

lock: ## Write requirements.lock anew (make lock UPGRADE=--upgrade for newer versions)
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet uv==$(UV_VERSION)
	build/uv/bin/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-annotate --no-emit-index-url \
	    --quiet --custom-compile-command "make lock" --output-file requirements.lock $(UPGRADE)

clean: ## Remove everything that the other targets made
	rm -rf build dist $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
