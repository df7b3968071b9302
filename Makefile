# `make demo` and `make test` need Python 3.11, make and nothing else; all they make is in this folder.
# Every path is relative, so that the folder's own name may hold spaces.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WHEEL_VENV := build/wheel-venv

# What some tests use beyond Debian's base system; a test without its program says that it skips.
TEST_PACKAGES := busybox-static fish gcc libc6-dev libfaketime libseccomp2 python3 stress-ng zsh

# Of the fault suite: how many, the seed of the first, and how many at once.
SCHEDULES ?= 20
SEED ?= 1
WORKERS ?= 2

# What `make bench` compares with; any that is not installed is reported as that.
PEERS := bubblewrap runc conmon containerd slurm-wlm task-spooler busybox-static

PIP := -m pip --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help demo test lint pytest test-faults test-v2 bench bench-smoke bench-profile bench-peers wheel venv test-packages clean

help:
	@echo 'make demo           see it work: about half a minute, leaves nothing behind'
	@echo 'make test           linters, types, layers, the built wheel, every test'
	@echo 'make lint           ruff, mypy, import-linter only'
	@echo 'make pytest         the tests only; ARGS="-k follow" for some of them'
	@echo 'make test-faults    the fault suite: a minute or two; SCHEDULES=500 for more, SEED=1 for others, WORKERS=4 at once'
	@echo 'make test-v2        the tests marked v2 in a virtual machine with cgroup v2 only, and our units on a systemd; as root, see tests/cgroup_v2'
	@echo 'make bench          as root, on a quiet machine: every figure, beside the peers that are installed; some ten minutes'
	@echo 'make bench-smoke    the same with next to no samples: seconds; it tries the harness, the figures mean nothing'
	@echo 'make bench-profile  as root: where the time of a launch goes, step by step'
	@echo 'make bench-peers    as root: apt-get install $(PEERS)'
	@echo 'make wheel          build wheel and sdist into dist/, and try the wheel in a venv of its own'
	@echo 'make venv           .venv with everything in it; the others do this by themselves'
	@echo 'make test-packages  as root: apt-get install $(TEST_PACKAGES), which some tests use'
	@echo 'make clean          remove all that these made'
	@echo
	@echo 'PYTHON=python3.12 make …   with another Python, 3.11 or newer (make clean first)'

venv: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo 'installing python3-venv, without which Debian’s Python makes no virtual environments'; \
	        { apt-get -qq update && apt-get -qq install -y python3-venv; } >/dev/null; \
	    else \
	        echo 'this Python makes no virtual environments. Ask an administrator for: apt-get install python3-venv' >&2; \
	        exit 1; \
	    fi; }
	@echo 'making $(VENV) (once; needs a package index)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python $(PIP) install -e '.[test]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python contrib/demo/demo.py

test: $(STAMP)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory wheel
	@$(MAKE) --no-print-directory pytest

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: $(STAMP)
	@[ "$$(id -u)" = 0 ] || echo 'not root: tests that need it are skipped, each with its reason'
	$(BIN)/python -m pytest $(ARGS)

test-faults: $(STAMP)
	@if [ "$$(id -u)" != 0 ]; then \
	    echo 'not root: the fault suite needs cgroups and processes of other users; run it as root'; \
	else \
	    $(BIN)/python tests/faults/run.py --schedules $(SCHEDULES) --seed $(SEED) --workers $(WORKERS); \
	fi

test-v2:
ifdef ARGS
	tests/cgroup_v2/run $(ARGS)
else
	@status=0; \
	tests/cgroup_v2/run --systemd tests/cgroup_v2/test_systemd.py || status=$$?; \
	tests/cgroup_v2/run -m v2 tests/cgroup_v2 tests/integration || status=$$?; \
	exit $$status
endif

bench: $(STAMP)
	$(BIN)/python tests/bench/run_bench.py $(ARGS)

bench-smoke: $(STAMP)
	$(BIN)/python tests/bench/run_bench.py --smoke $(ARGS)

bench-profile: $(STAMP)
	$(BIN)/python tests/bench/profile_launch.py $(ARGS)

# Their services are neither started nor needed: the bench starts daemons of its own.
bench-peers:
	@if [ "$$(id -u)" != 0 ]; then \
	    echo 'not root: ask an administrator for: apt-get install $(PEERS)' >&2; exit 1; \
	elif command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(PEERS) >/dev/null; \
	else \
	    echo 'no apt-get here: install $(PEERS) as this system does' >&2; exit 1; \
	fi

wheel: $(STAMP)
	rm -rf dist build
	$(BIN)/python -m build --outdir dist . >/dev/null
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python $(PIP) install dist/*.whl
	cd build && ../$(WHEEL_VENV)/bin/python -I ../contrib/demo/check_installed.py

test-packages:
	@if [ "$$(id -u)" != 0 ]; then \
	    echo 'not root: tests that use $(TEST_PACKAGES) will skip, unless an administrator does: apt-get install $(TEST_PACKAGES)'; \
	elif command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(TEST_PACKAGES) >/dev/null; \
	else \
	    echo 'no apt-get here: install $(TEST_PACKAGES) as this system does, or those tests skip'; \
	fi

clean:
	rm -rf $(VENV) .test-v2 build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
