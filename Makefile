# make demo: the main job on real images, in two minutes.   make test: every quick test.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TESTS ?= tests
WORKERS ?= 2

.PHONY: demo test test-all check dist clean browser

demo: $(VENV)/.installed
	$(BIN)/deitkit demo

test: $(VENV)/.installed-dev browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile \
		--no-loadscope-reorder --hypothesis-profile repeatable $(TESTS)

test-all: $(VENV)/.installed-dev browser
	$(BIN)/python -m pytest -q -m "" $(TESTS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile \
		--no-loadscope-reorder $(TESTS) --ignore tests/journeys

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

KERNELS = src/deitkit/augmentation/kernels.c

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py constraints.txt $(KERNELS)
	@echo "installing deitkit into $(VENV) (once)"
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what the tests need into $(VENV) (once)"
	$(PIP_INSTALL) -e ".[dev]"
	touch $@

# Tests of the pages need Debian's chromium, and onnxruntime-web in the user's cache (fetched as
# `deitkit export to=web` does); without them they are skipped and say so.
browser: $(VENV)/.installed-dev
	@if [ ! -x /usr/bin/chromium ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing chromium for the tests of the pages (once)"; \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
			>/dev/null 2>&1 || echo "no chromium: the tests of the pages are skipped"; \
	fi
	@$(BIN)/python -c "from deitkit.exporters.web_runtime import web_runtime; web_runtime()" \
		2>/dev/null || echo "no onnxruntime-web: its tests are skipped"

clean:
	rm -rf $(VENV) dist build
