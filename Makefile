# Needs python3 (3.11 or newer) and nothing else; everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/installed  ## five simulated rats, from NWB files to a report
	$(BIN)/neuroshare demo --out demo

test: lint  ## static checks, unit tests and doctests
	$(BIN)/python -m pytest -n 2

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The constraints pin the tested set (and with it a torch without CUDA packages where one is offered).
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
