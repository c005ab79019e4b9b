# `make demo` and `make test` need python3 (3.11+), pip and make; everything else is made here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export PATH := $(CURDIR)/$(BIN):$(PATH)
export OMP_WAIT_POLICY ?= PASSIVE
unexport PYTHONPATH
unexport PYTHONDONTWRITEBYTECODE  # the tests start hundreds of interpreters

.PHONY: demo test test-slow coverage mutation check types quick docs bench server ui clean

demo: $(VENV)/.installed   ## the whole job once, on the bars in data/bars
	moola demo

test: $(VENV)/.installed-test   ## layers, then every test that is not marked slow
	scripts/install-debian-deps
	lint-imports
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(VENV)/.installed-test   ## the tests that take minutes
	scripts/install-debian-deps
	pytest -m slow

coverage: $(VENV)/.installed-test   ## what `make test` runs, with the branches it reaches
	scripts/install-debian-deps
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --cov --cov-report=term

mutation: $(VENV)/.installed-test   ## do the tests notice a changed line? hours on two cores; goes on where it stopped
	$(PIP) install -q -c constraints.txt -e ".[mutation]"
	mutmut run "moola.evaluation.*" "moola.promotion.*"
	$(BIN)/python scripts/mutation_table.py

check: $(VENV)/.installed-test   ## what to run before a commit
	ruff check .
	ruff format --check .
	lint-imports
	$(MAKE) --no-print-directory -j 2 types quick

types: $(VENV)/.installed-test   ## mypy, strict
	mypy

quick: $(VENV)/.installed-test   ## the unit tests that neither train nor draw
	pytest tests/unit -n 2 --dist worksteal -x -m "not slow and not medium"

docs: $(VENV)/.installed-docs   ## the pages of docs/ as a site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

bench: $(VENV)/.installed-test   ## measure; ratios inside one run
	for bench in benchmarks/*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

server: $(VENV)/.installed   ## the guarded MLflow server on http://127.0.0.1:5000
	moola server

ui: $(VENV)/.installed   ## MLflow's web page over the local store, on http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --backend-store-uri sqlite:///mlflow.db \
	    --default-artifact-root ./mlartifacts --host 127.0.0.1 --port 5000 --workers 1

clean:   ## remove what was built; bars, runs and the store stay
	rm -rf $(VENV) .venv-bootstrap build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# Debian's python3 comes without ensurepip; virtualenv makes up for it.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Moola needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); \
	    $(PYTHON) -m pip install -q --target .venv-bootstrap virtualenv && \
	    PYTHONPATH=.venv-bootstrap $(PYTHON) -m virtualenv -q $(VENV); }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt torch -e ".[train,serve]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e ".[train,serve,postgres,test]"
	touch $@
