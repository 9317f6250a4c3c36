# SPDX-License-Identifier: BSD-3-Clause
# make demo: from nothing to a reconstruction.  make test: the whole suite.  Each sets up what it needs in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := pyproject.toml CMakeLists.txt $(wildcard cmake/*) $(shell find csrc -type f)
INTEGRATION := integrations/ptychodus
MINUTES ?= 3
PRETRAIN_MINUTES ?= 60
PRETRAIN ?=

.PHONY: help demo test faults kills lint bench pretrained gpu-check sanitize ptychodus wheel clean

help:
	@echo "make demo   install, build, simulate a scan, train, reconstruct, evaluate ($(MINUTES) minutes of training)"
	@echo "make test   install, build, run the whole test suite"
	@echo "make faults  every write of every command fails once, and from then on (half an hour)"
	@echo "make kills  200 commands are killed and begun again (ten minutes)"
	@echo "make lint   ruff and mypy"
	@echo "make bench  time the operators beside plain torch and a copy; writes benchmarks/results"
	@echo "make pretrained  train the network in the package on random scans ($(PRETRAIN_MINUTES) minutes); resumes"
	@echo "make gpu-check  on a machine with a GPU: build, test, compute-sanitizer, benchmark (benchmarks/gpu_check.sh)"
	@echo "make sanitize  the operators' tests against a build with address and undefined-behaviour sanitizers (GCC)"
	@echo "make ptychodus  ptychodus 1.7.0 from PyPI trains and reconstructs with integrations/ptychodus, by both routes"
	@echo "make wheel  build the wheels of both distributions into dist/ and check what they hold"
	@echo "make clean  remove .venv, build and demo"

$(VENV)/.dependencies: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed: $(VENV)/.dependencies $(NATIVE) $(INTEGRATION)/pyproject.toml
	$(PIP) install --quiet --no-build-isolation --no-deps -e .
	$(PIP) install --quiet --no-build-isolation --no-deps -e $(INTEGRATION)
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

# For the night; `make test` takes a sample of both.
faults: $(VENV)/.installed
	PTYCHOPINN_EVERY_WRITE=1 PTYCHOPINN_FLIPS=400 $(BIN)/python -m pytest -rP tests/situations/test_failing_writes.py \
	  tests/situations/test_flipped_bits.py

kills: $(VENV)/.installed
	PTYCHOPINN_KILLS=200 $(BIN)/python -m pytest -rP tests/situations/test_kills.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py

# PRETRAIN: further options, such as --loss floor; the state in build/ is resumed, until it is removed.
PRETRAINING := build/pretraining.pt
pretrained: $(VENV)/.installed
	mkdir -p build
	$(BIN)/python scripts/pretrain.py --minutes $(PRETRAIN_MINUTES) --seed 0 --checkpoint $(PRETRAINING) \
	  $(if $(wildcard $(PRETRAINING)),--resume) $(PRETRAIN)

gpu-check:
	PYTHON=$(PYTHON) benchmarks/gpu_check.sh

# A virtual environment of its own that borrows the packages of .venv but not its import hook, which would put the
# editable install in front. The sanitizer has to be loaded before Python; compiling and exporting cannot run under it.
SANITIZE := build/sanitize
SITE := import sysconfig; print(sysconfig.get_path("purelib"))
sanitize: $(VENV)/.dependencies
	$(BIN)/python -m venv --without-pip $(SANITIZE)/venv
	$(BIN)/python -c '$(SITE)' > $$($(SANITIZE)/venv/bin/python -c '$(SITE)')/borrowed.pth
	$(PIP) install --quiet --no-build-isolation --no-deps --upgrade --target $(SANITIZE)/site \
	  -C build-dir=$(SANITIZE)/cmake -C cmake.build-type=RelWithDebInfo \
	  -C cmake.define.PTYCHO_SANITIZE=address,undefined -C cmake.define.PTYCHO_CUDA=OFF .
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  PTYCHO_SANITIZE=address,undefined OMP_NUM_THREADS=2 PYTHONPATH=$(SANITIZE)/site $(SANITIZE)/venv/bin/python $(BIN)/pytest tests/ext \
	  -p no:cacheprovider --capture=sys -k "not compile and not export"

# ptychodus beside both distributions as a user has them, in an environment of its own that borrows the packages of .venv.
PTYCHODUS := build/ptychodus
$(PTYCHODUS)/.installed: $(VENV)/.dependencies
	rm -rf $(PTYCHODUS)
	$(BIN)/python -m venv $(PTYCHODUS)/venv
	$(BIN)/python -c '$(SITE)' > $$($(PTYCHODUS)/venv/bin/python -c '$(SITE)')/borrowed.pth
	$(PTYCHODUS)/venv/bin/python -m pip --disable-pip-version-check install --quiet 'ptychodus[gui]==1.7.0'
	touch $@

ptychodus: $(VENV)/.installed $(PTYCHODUS)/.installed
	# --ignore-installed, for .venv has both, leaves the files of an earlier run.
	$(PTYCHODUS)/venv/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes ptychopinn-ptychodus ptychopinn
	$(PTYCHODUS)/venv/bin/python -m pip --disable-pip-version-check install --quiet --no-build-isolation --no-deps \
	  --ignore-installed . ./$(INTEGRATION)
	$(PTYCHODUS)/venv/bin/python $(BIN)/pytest -p no:cacheprovider -k "ptycho_torch or ptychodus or clients" --durations 5 \
	  tests/clients tests/test_doctests.py tests/test_distributions.py tests/ptychopinn/test_products.py

wheel: $(VENV)/.dependencies
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist . ./$(INTEGRATION)
	$(BIN)/python scripts/wheel_contents.py dist/*.whl

clean:
	rm -rf $(VENV) build demo dist
