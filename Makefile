# Two commands from a fresh clone: `make demo` and `make test`. Everything is installed in .venv, nothing outside.
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what it imports; to compile all of PyTorch at once takes half a minute.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile --constraint constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo test lint fuzz tsan clean
.NOTPARALLEL:

help:
	@echo 'make demo    the whole flow on a small generated data set, in minutes, ending with a report'
	@echo 'make test    all tests'
	@echo 'make lint    style, formatting and types, those of TensorRT among them'
	@echo 'make fuzz    made-up bundles and images for the C++ library, 60 s each; needs clang'
	@echo 'make tsan    threads that share an engine of the C++ library: BUNDLE=... IMAGE=...jpg; needs clang'
	@echo 'make clean   remove what make and Python made; runs/ stays'

demo: $(VENV)/.build-installed
	$(BIN)/gnet-edge demo

# A process of tests that ends too early is not replaced: with whole files to each, pytest-xdist would wait for ever.
test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --max-worker-restart 0 \
	  --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev-installed $(VENV)/pyright/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(VENV)/pyright/bin/basedpyright --pythonpath $(VENV)/pyright/bin/python

SECONDS ?= 60
CLANG := -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo
RUNTIME = $$($(BIN)/python -c 'import onnxruntime, pathlib; print(*pathlib.Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))')

fuzz: $(VENV)/.dev-installed
	cmake -S engines/cpp -B build/fuzz $(CLANG) -DGNE_FUZZ=ON -DGNE_SANITIZE=address,undefined
	cmake --build build/fuzz --parallel
	$(BIN)/python tests/fuzz_seeds.py build/fuzz
	printf '%s\n' bundle image | xargs -P 2 -I {} sh -c \
	  'build/fuzz/tests/fuzz_{} -max_total_time=$(SECONDS) -max_len=8192 -timeout=10 build/fuzz/{}'

tsan: $(VENV)/.dev-installed
	cmake -S engines/cpp -B build/tsan $(CLANG) -DGNE_TESTS=ON -DGNE_SANITIZE=thread
	cmake --build build/tsan --parallel --target crowd
	TSAN_OPTIONS=suppressions=engines/cpp/tests/tsan.supp GNE_ONNXRUNTIME=$(RUNTIME) \
	  build/tsan/tests/crowd $(BUNDLE) $(IMAGE) 6 2 $(SECONDS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.build-installed $(VENV)/.dev-installed: $(VENV)/.%-installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) --no-build-isolation --editable '.[$*]'
	@touch $@

$(VENV)/pyright/.installed: $(VENV)/.created tests/pyright.txt
	$(BIN)/python -m venv $(VENV)/pyright
	$(VENV)/pyright/bin/python -m pip install --disable-pip-version-check --no-deps --requirement tests/pyright.txt
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) > /dev/null || \
	  { echo 'make: $(PYTHON) is not installed; install Python 3.10 or newer, or name one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: Python 3.10 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
	  { echo 'make: $(PYTHON) lacks its venv module; on Debian and Ubuntu: sudo apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools zopfli
	@touch $@
