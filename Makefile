# minillama: two commands are all you need, `make reproduce` and `make test`.
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.complete
DEV := .venv/.complete-dev
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt

.PHONY: help setup dev corpus reproduce test quick soak portable lab figures bench notebooks lint clean

help:
	@echo "make reproduce  text, tokenizer, four models, both figures (15 minutes on 2 cores)"
	@echo "make test       all tests and all notebooks (25 minutes on 2 cores)"
	@echo "make quick      the tests of the paper's own rooms (3 minutes)"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make figures    draw the figures again from the runs at hand, in runs/figures"
	@echo "make bench      compare training speed with Hugging Face's Llama"
	@echo "make soak       the long forms of the tests"
	@echo "make portable   all tests and notebooks as on other processors and Pythons (hours)"
	@echo "make notebooks  execute all notebooks and store their outputs"
	@echo "make clean      delete what was built (not what was fetched)"

setup: $(STAMP)

$(STAMP): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("minillama needs Python 3.11 or newer; this is %s: set PYTHON=python3.11" % sys.version.split()[0])'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) setuptools wheel
	$(PIP) --no-build-isolation -e .
	@touch $(STAMP)

dev: $(DEV)

$(DEV): $(STAMP)
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $(DEV)

reproduce: setup
	$(PY) -m minillama reproduce

corpus: setup
	$(PY) -m minillama data fetch
	$(PY) -m minillama data build --own-share 0

# Two processes, each with whole files: a notebook's cells share a kernel.
test: dev corpus
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests --nbval notebooks

# The rooms that the notebooks teach, without what starts or kills other processes.
QUICK := tests/test_*.py $(addprefix tests/,model corpus efficient train inference evaluate figures)
quick: dev
	$(PY) -m pytest -n 2 --dist loadfile -q $(QUICK) -k "not kill and not stop and not execution"

soak: dev
	$(PY) -m pytest tests -m soak --timeout 7200

portable: dev
	$(PY) tests/portable.py

lab: setup
	$(PY) -m jupyterlab notebooks

figures: setup
	$(PY) -m minillama figures

bench: dev
	$(PY) -m minillama bench train

notebooks: dev
	$(PY) -m minillama.teach.execute

lint: dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

clean:
	rm -rf runs data/corpus .pytest_cache .ruff_cache .hypothesis minillama.egg-info
