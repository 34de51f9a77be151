# Every target sets up what it needs in .venv, from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
export DAGSTER_HOME := $(CURDIR)

.PHONY: demo test test-system check dev docs soak bench lock clean

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/installed
	$(BIN)/retrain demo

dev: .venv/installed
	$(BIN)/dagster dev --workspace workspace.yaml

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test: .venv/installed
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-system: .venv/installed
	command -v chromium > /dev/null && command -v prometheus > /dev/null && \
	  ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || { \
	  apt-get update --quiet --quiet && \
	  apt-get install --quiet --quiet --yes --no-install-recommends \
	    chromium prometheus postgresql; }
	$(BIN)/pytest -m system --numprocesses 2 --dist loadfile

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/dg check defs
	$(BIN)/dagster definitions validate --workspace workspace.yaml
	$(BIN)/python benchmarks/size.py

soak: .venv/installed
	command -v buildah > /dev/null && command -v podman > /dev/null && \
	  command -v runc > /dev/null && command -v mmdebstrap > /dev/null && \
	  ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || { \
	  apt-get update --quiet --quiet && \
	  apt-get install --quiet --quiet --yes --no-install-recommends \
	    buildah podman runc mmdebstrap postgresql; }
	$(BIN)/pytest -m soak

bench: .venv/installed
	$(BIN)/python benchmarks/retrain.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/decisions.py
	$(BIN)/python benchmarks/gates.py
	$(BIN)/python benchmarks/months.py
	$(BIN)/python benchmarks/policies.py
	$(BIN)/python benchmarks/listing.py

# Needs uv; the lock names packages and hashes, no addresses.
lock:
	uv pip compile pyproject.toml --all-extras --generate-hashes --no-strip-extras \
	  --python-version 3.11 --no-annotate --no-header --output-file requirements.lock

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
