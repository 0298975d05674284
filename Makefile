# make demo: everything end to end on the built-in synthetic suite; make test: lint, types, tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-slow docs install install-test lint clean

demo: install
	$(RUN) --model retina --seeds 6
	$(RUN) --model unet-resnet50,unet-resnet50-mocov2,transunet --seeds 3
	EMBENCH_DATA=$(DEMO)/data $(BIN)/embench leaderboard --results $(DEMO)/results --out $(DEMO)/site

# Two of the synthetic tasks, with a budget at which every model has learned something.
RUN = EMBENCH_DATA=$(DEMO)/data $(BIN)/embench run --task mini-guay,mini-urocell --iterations 150 --evaluations 3 \
	--results $(DEMO)/results

test: install-test lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4    # a core for each process

test-slow: install-test
	$(BIN)/python -m pytest -m slow

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(VENV)/.installed $@

# the documentation site in build/docs; a broken link ends it
docs: install
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python tools/make_docs.py

clean:
	rm -rf $(VENV) $(DEMO) site build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
