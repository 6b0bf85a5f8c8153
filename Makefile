.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test coverage lint fuzz soak bench real docs clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

# The CPU build of torch is named once, in constraints.txt; without it pip would fetch gigabytes of CUDA.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/ready  ## example data, training, scores beside baselines, maps and a picture (a few minutes)
	$(BIN)/agrifm demo

TESTS := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: .venv/ready  ## all tests
	$(TESTS)

# Tracing every line takes a third longer, so that it is not part of every run.
coverage: .venv/ready  ## all tests, which must run 95 % of the lines of the product
	$(TESTS) --cov --cov-report term --cov-fail-under 95

lint: .venv/ready  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check
	$(BIN)/lint-imports

fuzz: .venv/ready  ## 10,000 mutated inputs of every format, counted by what became of them (about 20 minutes)
	$(BIN)/python tests/fuzz/harness.py --cases 10000 --workers 2

soak: .venv/ready  ## 200 commands stopped at random moments and given again; their files compared byte by byte
	$(BIN)/python tests/fuzz/soak.py --stops 200

bench: .venv/ready  ## cost of the model against a plainly written one, as ratios (about an hour for everything)
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/targets.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/counted.py

real: .venv/ready  ## accuracy on real series, if they are on this machine
	$(BIN)/python benchmarks/real.py

docs: .venv/ready  ## the documentation as a site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python tools/reference.py docs/reference
	$(BIN)/zensical build --strict

clean:  ## remove the environment and everything built
	rm -rf .venv build dist site .pytest_cache .ruff_cache .coverage*
