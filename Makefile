# `make run` and `make test` install everything on a new machine. To install CPU wheels of
# torch, set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: run test check coverage chaos attack mutations soak audit bench scaling screenshots states build clean

run: $(INSTALLED)
	$(BIN)/fracture-node demo

# Without OMP_WAIT_POLICY, waiting threads of torch occupy cores that other tests need. The
# tests have the lowest priority: otherwise the worker of a node, which has a lower one
# than its receiver, gets almost no processor time beside the other tests. Without its
# bytecode, each of hundreds of processes would compile the modules of the node again.
test: export OMP_WAIT_POLICY = passive
test: export PYTHONDONTWRITEBYTECODE =
test: $(INSTALLED)
	nice -n 19 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/python -m pytest -m alone $$(grep -rl mark.alone --include="test_*.py" tests --exclude-dir=chaos --exclude-dir=attack)

# Line and branch coverage, subprocesses included, without the tests marked alone: coverage
# would change what they measure. The confined decoder can write no file, so its lines
# count only if a test calls them directly.
coverage: export OMP_WAIT_POLICY = passive
coverage: export PYTHONDONTWRITEBYTECODE =
coverage: $(INSTALLED)
	rm -rf build/coverage
	mkdir -p build/coverage
	nice -n 19 $(BIN)/coverage run -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Tests with killed processes, full disks and failing archives; takes 15 minutes. Needs
# Linux, root (to mount a small disk, and for host names of its own), and dcmtk,
# postgresql, gcc, faketime and util-linux. Without one of them, a test is skipped.
chaos: $(INSTALLED)
	$(BIN)/python -m pytest tests/chaos -m chaos

# Attacks on a node; takes ten minutes. A table shows the cost of each attack to the
# attacker, the turnaround of a valid image, and the memory of the node.
attack: $(INSTALLED)
	$(BIN)/python -m pytest tests/attack -m attack

# Three thousand mutated instances, through C-STORE, /predict and analyze.
mutations: $(INSTALLED)
	$(BIN)/python -m pytest tests/chaos -m mutations

# Twenty minutes of traffic, to detect memory, files or rows that grow.
soak: $(INSTALLED)
	$(BIN)/python -m pytest tests/chaos -m soak

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Checks the installed packages against public lists of vulnerabilities. Fails if there is
# a vulnerability, or if a package cannot be checked.
audit: $(INSTALLED)
	$(BIN)/python -m pip freeze --quiet --exclude-editable > $(VENV)/installed.txt
	$(BIN)/python -m pip_audit --strict --progress-spinner off \
	  --requirement $(VENV)/installed.txt --no-deps --disable-pip

bench: $(INSTALLED)
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/figures.py
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/compare.py
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/receiving.py
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/load.py
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/viewer.py

# Images per second with 1 to 8 workers on one PostgreSQL. Analyses only sleep.
scaling: $(INSTALLED)
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/scaling.py

# Screenshots of the pages in build/screenshots, and those of the documents in docs/.
# Needs chromium-headless-shell.
screenshots: $(INSTALLED)
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/screenshots.py

# docs/states.md, from the table of transitions.
states: $(INSTALLED)
	PYTHONPATH=. $(BIN)/python -P tests/support/states_document.py

build: $(INSTALLED)
	rm -rf build  # the wheel must not contain files that were deleted since the last build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed; $(PYTHON) is older. Use another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "Python's venv is missing. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
