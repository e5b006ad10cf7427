# make demo    the whole way on real data, nothing but Python 3.11 needed
# make test    the tests;   make lint   ruff, mypy, import-linter
# make bench   against pythae, by hand: an environment of its own, under build/
# make faults  crashes, kills, a bad network, full disks, wrong clocks: what a published snapshot must outlive, by hand
# make faults-train   kill -9 at trainings, by hand: a quarter of an hour
# make bench-ingest   against DuckDB, polars and pyarrow, by hand
# make bench-train    against a bare loop, Ray's usual recipe, pythae and Lightning, by hand; ARGS="--device cuda"
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test lint bench bench-ingest bench-train faults faults-train clean

demo: .venv/installed
	$(BIN)/latentpipe run deploy/runs/demo.toml

test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: build/bench/installed
	PYTHONPATH=. build/bench/bin/python tests/bench/vs_pythae.py

bench-ingest: .venv/installed-dev
	$(BIN)/python tests/bench/ingest/race.py

faults: .venv/installed-dev
	$(BIN)/python tests/faults/run.py $(ARGS)

faults-train: .venv/installed-dev
	$(BIN)/python tests/faults/train.py

bench-train: .venv/installed-dev build/bench-train/installed
	$(BIN)/python tests/bench/train/race.py $(ARGS)

build/bench/installed: constraints.txt
	$(PYTHON) -m venv build/bench
	build/bench/bin/python -m pip install --quiet --constraint constraints.txt pythae==0.1.2 torch safetensors jaxtyping scikit-learn
	touch $@

build/bench-train/installed: constraints.txt
	$(PYTHON) -m venv build/bench-train
	build/bench-train/bin/python -m pip install --quiet --constraint constraints.txt pythae==0.1.2 lightning==2.6.6 torch
	touch $@

clean:
	rm -rf .venv build workspace

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
