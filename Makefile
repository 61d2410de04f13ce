# All that a newcomer needs: `make demo`, `make test`. Each sets up its own environment once.

PYTHON ?= python3
ARGS ?=  # more flags for the demo, as in make demo ARGS=--config.train.steps=600
VENV := .venv
BIN := $(VENV)/bin
CONFIG := configs/hr18s_minicity.py

.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.installed  ## draw street scenes, train a network on them, show what it sees
	@$(BIN)/python -m hrnet_jax.main --config $(CONFIG) $(ARGS)

test: check fast-tests  ## what CI runs: format, lint, types, fast tests

check: $(VENV)/.installed-test  ## format, lint, types
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

fast-tests: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not parity and not browser"

test-slow: $(VENV)/.installed-test  ## full-size checks
	@$(BIN)/python -m pytest -q -m slow

parity: $(VENV)/.installed-test .venv-parity/.installed  ## comparison with the real mmsegmentation (PyTorch, 30 min)
	@HRNET_PARITY_PYTHON=.venv-parity/bin/python $(BIN)/python -m pytest -q -m parity tests/parity

browser: $(VENV)/.installed-test  ## the report in a real headless browser
	@$(BIN)/python -m pytest -q -m browser tests/test_browser.py

format: $(VENV)/.installed-test  ## rewrite the code in the project's format
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

# Each runs alone, compared with what `make parity` installs; half an hour in all.
BENCHMARKS := inference training compile scaling job data evaluate ragged kernels roofline
benchmark: $(VENV)/.installed-test .venv-parity/.installed  ## speed and memory compared with mmsegmentation
	@for name in $(BENCHMARKS); do \
		$(BIN)/python -m benchmarks.$$name --json benchmarks/results/$$name.json || exit 1; done
	@$(BIN)/python -m benchmarks.report benchmarks/results

learning: $(VENV)/.installed-test .venv-parity/.installed  ## training on photographs compared with mmsegmentation (ROOT=folder, half an hour or more)
	@HRNET_PARITY_PYTHON=.venv-parity/bin/python $(BIN)/python -m benchmarks.learning --root "$(ROOT)"

kill-campaign: $(VENV)/.installed-test  ## kill a run 50 times at random; it must end like one that never was
	@$(BIN)/python -m tests.kill_campaign --folder runs/kills

colour-table: $(VENV)/.installed  ## what a classifier that sees only colours reaches on minicity
	@$(BIN)/python -m benchmarks.colour_table --root data/minicity

$(VENV)/.installed: pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is \
	needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 demo")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || \
		{ echo "Making $(VENV) ..."; "$(PYTHON)" -m venv --clear $(VENV); }
	@echo "Installing hrnet_jax and what it needs (once, a minute or two) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing the tools of the tests ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

# PyTorch for CPUs; where the index has none: make parity PEER_INSTALL="--index-url <its CPU index>"
.venv-parity/.installed: Makefile
	@echo "Making .venv-parity with mmsegmentation and PyTorch (once, a few minutes) ..."
	@test -x .venv-parity/bin/python || $(PYTHON) -m venv .venv-parity
	@.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check $(PEER_INSTALL) \
	torch==2.13.0
	@.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check \
	mmsegmentation==1.2.2 mmengine==0.10.7 mmcv-lite==2.1.0 ftfy regex "setuptools<81" scikit-learn
	@touch $@

clean:  ## remove the environment, caches and the drawn scenes; runs and datasets stay
	rm -rf $(VENV) .venv-* .pytest_cache .mypy_cache .ruff_cache build dist data/minicity

.PHONY: help demo test check fast-tests test-slow browser format parity benchmark learning kill-campaign colour-table clean
