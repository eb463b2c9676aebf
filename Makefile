# make demo    run the whole pipeline on the built-in data and a real 135M model
# make test    lint, types and the fast tests
# make check   the same, then the slow tests
# make bench   measure speed and memory beside a plain implementation, for an hour or more
# make results make what is missing of the tables in docs/results; PART=methods for one of them
# make clean   remove .venv and everything made by the tools
#
# Each makes its own .venv first, from the versions in constraints.txt.
#   PYTHON=python3.12         which interpreter (3.11 or newer)
#   TORCH=torch==2.11.0       which torch; any pip arguments, such as "torch --index-url URL"
#   ARGS="..."                passed on to expunge demo, the benchmark or the results
#   WORKERS=4                 test processes
# A torch that PYTHON can already import is reused unless TORCH is given.

PYTHON ?= python3
TORCH ?=
ARGS ?=
PART ?= all
WORKERS ?= 2
BIN := .venv/bin

# One thread a process, because the test processes share the cores. No test may reach a hub.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

.PHONY: help venv demo test check bench results lint fast slow clean

help:
	@sed -n -e '/^$$/q' -e 's/^# \{0,1\}//p' Makefile

venv:
	@$(PYTHON) scripts/make_venv.py --torch '$(TORCH)' $(if $(filter-out file,$(origin PYTHON)),--python-given)

demo: venv
	@$(BIN)/expunge demo $(ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast: lint
	$(TEST_ENV) $(BIN)/pytest -n $(WORKERS) -m 'not slow'

slow: fast
	$(TEST_ENV) $(BIN)/pytest -n $(WORKERS) -m slow

test: fast

check: slow

bench: venv
	@$(BIN)/python -m benchmarks.run $(ARGS)

results: venv
	@$(BIN)/python -m results $(PART) $(ARGS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
