# SPDX-License-Identifier: BSD-3-Clause
# make demo: from nothing to a reconstruction.  make test: the whole suite.  Each sets up what it needs in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := pyproject.toml CMakeLists.txt $(wildcard cmake/*) $(shell find csrc -type f)
MINUTES ?= 3

.PHONY: help demo test lint wheel clean

help:
	@echo "make demo   install, build, simulate a scan, train, reconstruct, evaluate ($(MINUTES) minutes of training)"
	@echo "make test   install, build, run the whole test suite"
	@echo "make lint   ruff and mypy"
	@echo "make wheel  build a wheel into dist/"
	@echo "make clean  remove .venv, build and demo"

$(VENV)/.dependencies: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed: $(VENV)/.dependencies $(NATIVE)
	$(PIP) install --quiet --no-build-isolation --no-deps -e .
	touch $@

demo: $(VENV)/.installed
	rm -rf demo
	$(BIN)/ptychopinn doctor
	$(BIN)/ptychopinn simulate demo/scan.npz --object photos --probe defocused --seed 1
	$(BIN)/ptychopinn train demo/scan.npz --out demo/run --minutes $(MINUTES)
	$(BIN)/ptychopinn reconstruct demo/run demo/scan.npz --out demo/recon.h5
	$(BIN)/ptychopinn evaluate demo/recon.h5 demo/scan.npz --out demo/metrics.json
	@echo "The pictures are in demo/recon: amplitude.png, phase.png, comparison.png, frc.png"

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(VENV)/.dependencies
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build demo dist
