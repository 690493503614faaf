# make run    a running CMP server with its own CA in ./cmpd-data   (ARGS="--dir DIR --listen HOST:PORT")
# make test   formatting, lint, types, layers and all tests          (ARGS="-k kur" goes to pytest; JOBS=1: one after another)
# make bench  the load client: the tables of README's "Speed"        (ARGS="--quick" goes to it)
# make chaos  three servers on one store, many clients, everything that can go wrong, for ten minutes, and a checker
#             (ARGS="--seconds N --seed S --store sqlite" goes to it)
# make lint   the first four of `make test`
# make clean  away with everything that make has made, cmpd-data excepted
#
# Needs Python 3.11 or newer (PYTHON=python3.12 chooses one), make and openssl.

VENV := .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PIP := PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt
ARGS ?=
# One more than the cores of a small machine: tests with real processes wait as much as they work.
JOBS ?= 3

.PHONY: run test bench chaos lint clean openssl
.DELETE_ON_ERROR:

run: openssl $(VENV)/run.stamp
	@exec $(BIN)/python -m cmpd quickstart $(ARGS)

test: openssl lint
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

bench: openssl $(VENV)/test.stamp
	@$(BIN)/python -m bench $(ARGS)

chaos: openssl $(VENV)/test.stamp
	@$(BIN)/python -m tests.chaos $(ARGS)

lint: $(VENV)/test.stamp
	@$(BIN)/ruff check --quiet --output-format concise
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo > $(VENV)/layers.txt || { cat $(VENV)/layers.txt; exit 1; }

openssl:
	$(need-openssl)

clean:
	rm -rf $(VENV) build cmpd.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find cmpd tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/run.stamp: pyproject.toml constraints.txt
	$(need-python)
	@echo "Installing cmpd into $(VENV) ..." >&2
	@$(venv)
	@$(PIP) --no-build-isolation -e .
	@touch $@

# It holds all that `make run` needs.
$(VENV)/test.stamp: pyproject.toml constraints.txt
	$(need-python)
	@echo "Installing cmpd and its test tools into $(VENV) ..." >&2
	@$(venv)
	@$(PIP) --no-build-isolation -e '.[test]'
	@touch $@ $(VENV)/run.stamp

# A virtual environment whose Python has gone is made anew. setuptools, which builds cmpd, is pinned like all others.
venv = { $(BIN)/python -c "" 2>/dev/null || $(PYTHON) -m venv --clear $(VENV); } && $(PIP) setuptools

need-python = $(if $(PYTHON),,$(error Python 3.11 or newer is not installed (python3); PYTHON=/path/to/python names one))$(if \
	$(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11) or "")'),,$(error PYTHON=$(PYTHON) is not Python 3.11 or newer))$(if \
	$(shell $(PYTHON) -c 'import ensurepip, venv; print(1)' 2>/dev/null),,$(error $(PYTHON) lacks its venv module; Debian and Ubuntu have it in python3-venv))
need-openssl = $(if $(shell command -v openssl 2>/dev/null),,$(error the openssl command is not installed))
