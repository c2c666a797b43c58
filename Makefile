# `make run` and `make test` do all the set-up on a fresh machine. Where pip shall take
# CPU wheels of torch from, set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS as usual.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: run test check coverage chaos attack mutations soak audit bench scaling screenshots build clean

run: $(INSTALLED)
	$(BIN)/fracture-node demo

# Threads of torch that wait for each other would keep the others from their work.
test: export OMP_WAIT_POLICY = passive
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/python -m pytest -m alone $$(grep -rl mark.alone --include="test_*.py" tests --exclude-dir=chaos --exclude-dir=attack)

# Line and branch coverage of all tests, subprocesses included. The confined decoder can
# write no file, so its lines count only if a test calls them directly.
coverage: export OMP_WAIT_POLICY = passive
coverage: $(INSTALLED)
	rm -rf build/coverage
	mkdir -p build/coverage
	$(BIN)/coverage run -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Bad nights, a quarter of an hour of them; needs root's right to mount a small disk, and
# setpriv, DCMTK, PostgreSQL and libfaketime.
chaos: $(INSTALLED)
	$(BIN)/python -m pytest tests/chaos -m chaos

# Attacks on a node, ten minutes of them: a table shows what each costs the attacker and
# does to a good image and to the memory of the node.
attack: $(INSTALLED)
	$(BIN)/python -m pytest tests/attack -m attack

# Three thousand harmed instances, by C-STORE, /predict and analyze.
mutations: $(INSTALLED)
	$(BIN)/python -m pytest tests/chaos -m mutations

# Twenty minutes of traffic: does anything grow?
soak: $(INSTALLED)
	$(BIN)/python -m pytest tests/chaos -m soak

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What is installed, against the public lists of known weaknesses. Fails on a finding, and
# on what it could not look up.
audit: $(INSTALLED)
	$(BIN)/python -m pip freeze --quiet --exclude-editable > $(VENV)/installed.txt
	$(BIN)/python -m pip_audit --strict --progress-spinner off \
	  --requirement $(VENV)/installed.txt --no-deps --disable-pip

bench: $(INSTALLED)
	$(BIN)/python -P tests/benchmarks/figures.py
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/compare.py
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/receiving.py
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/load.py
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/viewer.py

# Images a second with 1 to 8 workers on one PostgreSQL, analyses being a sleep.
scaling: $(INSTALLED)
	PYTHONPATH=. $(BIN)/python -P tests/benchmarks/scaling.py

# Pictures of the pages: all in build/screenshots, and those of the documents in docs/.
# Needs Chromium.
screenshots: $(INSTALLED)
	$(BIN)/python -P tests/benchmarks/screenshots.py

build: $(INSTALLED)
	rm -rf build  # what was deleted since the last build must not come along
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed; $(PYTHON) is older. Name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "Python's venv is missing. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
