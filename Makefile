# ExitLens. `make` alone lists the targets; README.md explains them.
# A .venv counts only with its stamps, which are written last: an interrupted install is taken up again.

PYTHON   ?= $(or $(shell command -v python3.11 2>/dev/null),python3)
VENV     := .venv/bin/python
PIP      := $(VENV) -m pip --quiet --disable-pip-version-check --no-input
CHROMIUM := /usr/bin/chromium

IS_RECENT := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
HAS_VENV  := -c 'import ensurepip, venv'

# Full data sets, where this checkout stands beside them. Set, even to nothing, the variable is left alone.
ifneq ($(wildcard ../shared/data),)
export EXITLENS_DATA ?= $(abspath ../shared/data)
endif

# Stamps mean nothing once the Python behind .venv is gone (removed, or copied from another machine).
ifneq ($(shell $(VENV) $(IS_RECENT) 2>/dev/null && echo works),works)
.PHONY: .venv/.app-stamp
endif

.DEFAULT_GOAL := help
.PHONY: help app test check format

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

app: .venv/.app-stamp ## install what is missing, then open the dashboard (PORT=8600 chooses the port)
	@$(VENV) -m ui $(if $(PORT),--server.port $(PORT))

# The browser's journeys run first and apart: they would make the others slow. Half of their time is waiting, so two
# files at a time; a file shares one server.
test: $(CHROMIUM) .venv/.dev-stamp ## run every test, those in a real browser included
	$(VENV) -m pytest -q -m browser -n 2 --dist loadfile
	$(VENV) -m pytest -q -m "not browser" -n 2 --dist worksteal

check: .venv/.dev-stamp ## formatting, lint, types and the fast tests
	$(VENV) -m ruff format --check
	$(VENV) -m ruff check
	$(VENV) -m mypy
	$(VENV) -m pytest -q -n 2 --dist worksteal -m "not slow and not browser and not gpu"

format: .venv/.dev-stamp ## rewrite the code in the project's format
	$(VENV) -m ruff check --fix-only
	$(VENV) -m ruff format

.venv/.app-stamp: requirements.txt
	@if ! { $(VENV) $(IS_RECENT) && $(VENV) -m pip --version; } >/dev/null 2>&1; then \
	  $(PYTHON) $(IS_RECENT) 2>/dev/null || { \
	    echo "ExitLens needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | tail -n 1)." >&2; \
	    echo "Install one, or name one that is installed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
	  $(PYTHON) $(HAS_VENV) 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments yet. As root: apt install python3-venv" >&2; exit 1; }; \
	  rm -rf .venv && $(PYTHON) -m venv .venv; \
	fi
	@echo "Installing requirements.txt into .venv: the first time about 6 GB, two to five minutes ..."
	@$(PIP) install -r requirements.txt
	@touch $@

.venv/.dev-stamp: .venv/.app-stamp requirements-dev.txt requirements-peers.txt requirements-ray.txt
	@echo "Installing the test tools into .venv ..."
	@$(PIP) install -r requirements-dev.txt -r requirements-ray.txt
	@$(PIP) install --no-deps -r requirements-peers.txt
	@touch $@

$(CHROMIUM):
	@[ "$$(id -u)" = 0 ] || { \
	  echo "The browser tests need Debian's Chromium: sudo apt install chromium" >&2; exit 1; }
	@echo "Installing Debian's Chromium for the browser tests ..."
	@apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
