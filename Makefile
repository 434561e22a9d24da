# Everything runs in .venv, installed from the lock file that suits this machine. `make PYTHON=python3.12 setup` picks
# another Python. Nothing but Python (3.11 or later), its venv module and make is needed where there is no GPU.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
LOCK := requirements-$(if $(GPU),gpu,cpu).lock
INSTALLED := $(VENV)/$(LOCK).installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A GPU is given to one test process: workers would fill its memory and spoil each other's timings.
WORKERS ?= $(if $(GPU),0,2)
# Two workers on two cores: threads of torch's and numpy's own would only wait for each other.
export OMP_NUM_THREADS = $(if $(GPU),,1)
export OPENBLAS_NUM_THREADS = $(if $(GPU),,1)

.PHONY: help setup demo test chromium test-all mutation sanitizer lab bench figures first-cells

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## install everything into .venv (done once; again when the pins change)
	@$(if $(GPU),$(BIN)/python -P pytriton_llama/toolchain.py)

# The package itself is built with the pinned setuptools, so that this step downloads nothing and moves no pin.
$(INSTALLED): $(LOCK) pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	    { echo "make: $(PYTHON) not found: sudo apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: $(PYTHON) is older than the Python 3.11 needed: try make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "make: $(PYTHON) lacks its venv module: sudo apt-get install python3-venv"; exit 1; }
	@echo "Installing $(LOCK) into $(VENV) (minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) -r $(LOCK)
	@$(PIP) --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/*.installed && touch $@

demo: setup ## fetch SmolLM2-135M-Instruct and ask it a question
	$(BIN)/pytriton-llama fetch
	$(BIN)/pytriton-llama chat "What is the capital of France?"

test: setup ## lint, types, tests, and every notebook against its committed outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n $(WORKERS) -m "not slow and not browser" tests/
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --nbval notebooks/

# What a GPU machine runs with, beside what this one has: the gpu lock's triton and numpy, the rest from .venv.
GPU_TRITON := $(VENV)/gpu-triton
$(GPU_TRITON)/installed: $(INSTALLED) requirements-gpu.lock
	@$(PYTHON) -m venv $(GPU_TRITON)
	@site="import sysconfig; print(sysconfig.get_path('purelib'))"; \
	    $(BIN)/python -c "$$site" > "$$($(GPU_TRITON)/bin/python -c "$$site")/venv.pth"
	@$(GPU_TRITON)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-installed \
	    $(shell grep -E '^(triton|numpy)==' requirements-gpu.lock)
	@touch $@

chromium:
	@command -v chromium >/dev/null || { echo "make: chromium not found: sudo apt-get install chromium"; exit 1; }

test-all: chromium test $(GPU_TRITON)/installed ## test, the slow tests, a browser's, and the kernels under other interpreters
	$(BIN)/pytest -n $(WORKERS) -m slow tests/
	$(BIN)/pytest -m browser tests/browser
	TRITON_INTERPRET=1 $(BIN)/pytest -n $(WORKERS) -m "not slow" tests/kernels --watched --ignore tests/kernels/test_ahead_of_time.py
	PYTRITON_LLAMA_FAST_INTERPRETER=0 TRITON_INTERPRET=1 $(BIN)/pytest -n $(WORKERS) -m "not slow" tests/kernels --ignore tests/kernels/test_ahead_of_time.py
	TRITON_INTERPRET=1 $(GPU_TRITON)/bin/python -m pytest -n $(WORKERS) -m "not slow" tests/kernels tests/interpreter

mutation: setup ## plant slips in copies of the package, and say which ones the tests catch
	$(BIN)/python -m tests.mutation

sanitizer: setup ## every kernel under NVIDIA's compute-sanitizer, into docs/sanitizer.md (needs a GPU)
	$(BIN)/python -m tests.sanitizer

# On rented machines one is often root, as whom Jupyter starts only if asked to. It serves this folder, not notebooks/
# alone, whose links to the package would lead nowhere.
lab: setup ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.default_url=/lab/tree/notebooks

bench: setup ## measure every operation beside its peers (needs a GPU)
	$(BIN)/pytriton-llama bench

figures: setup ## plots and README's tables from what is recorded
	$(BIN)/python -m pytriton_llama.bench.figures

first-cells: setup ## badge and install cell of every notebook, from pyproject's project.urls.Repository
	$(BIN)/python -m pytriton_llama.course.first_cells
