# Needs python3 (3.11 or newer) and nothing else; everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs notebooks clean

demo: .venv/installed  ## five simulated rats, from NWB files to a report
	$(BIN)/neuroshare demo --out demo

test: lint  ## static checks, tests and doctests, documentation with its notebooks executed
	$(BIN)/python -m pytest -n 2
	$(MAKE) docs

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/installed  ## the documentation, in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

notebooks: .venv/installed  ## the notebooks as .ipynb files, to open and run
	$(BIN)/jupytext --quiet --to ipynb notebooks/*.py

# The constraints pin the tested set (and with it a torch without CUDA packages where one is offered).
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,docs]'
	touch $@

clean:
	rm -rf .venv demo docs/_build docs/api notebooks/*.ipynb .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
