# make sample: the whole pipeline on the embedded documents, offline. make help: all commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SET ?= sample
JOBS ?= 2
READY := $(VENV)/.installed

.PHONY: help sample models test test-all figures site lab bench clean

help:
	@echo "make sample    install into .venv and run params/sample"
	@echo "make models    the same, then tiny models trained and evaluated on it (params/sample-models)"
	@echo "make test      lint, type check, tests"
	@echo "make test-all  the same with the long campaigns (needs Chromium)"
	@echo "make figures   publish the figures of SET (default: sample) into figures/, and the tour with its outputs"
	@echo "make site      executed notebooks, figures and gallery of SET as a folder of pages, site/"
	@echo "make lab       JupyterLab on the notebooks"
	@echo "make bench     measure speed against the libraries underneath"

$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# on all cores, where pip would take one; some files are templates, which do not compile
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $(READY)

sample: $(READY)
	$(BIN)/python -m vislib.run params/sample --jobs $(JOBS)

models: sample
	$(BIN)/python -m vislib.run params/sample-models --jobs $(JOBS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict vislib
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-all: test
	$(BIN)/python -m pytest -m campaign

figures: $(READY)
	$(BIN)/python -m vislib.figures.publish $(SET)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/00_tour.ipynb

site: $(READY)
	$(BIN)/python -m vislib.site $(SET)

lab: $(READY)
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
	  $(BIN)/nbstripout --install --attributes .git/info/attributes && \
	  git config filter.nbstripout.extrakeys metadata.language_info && \
	  echo 'notebooks/00_tour.ipynb -filter' >> .git/info/attributes; fi
	@# kernels start in the folder of their notebook, where a relative VISLIB_RUNS would be another one
	VISLIB_RUNS=$${VISLIB_RUNS:+$$($(BIN)/python -c 'import os; print(os.path.abspath(os.environ["VISLIB_RUNS"]))')} \
	  $(BIN)/jupyter lab --notebook-dir .

bench: $(READY)
	$(BIN)/python -m pytest -m campaign tests/benchmarks -s

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
