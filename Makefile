# make demo: see it work. make test: check it. Each sets up .venv first. Another Python: make PYTHON=python3.12 install
PYTHON ?= python3
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
ADVVAE := $(VENV_PYTHON) -m advvae
INSTALLED := $(VENV)/.installed
SLOW := $(VENV)/.slow
DOCS := $(VENV)/.docs
# Two processes of one thread each: two threads on tests' small tensors wait for each other most of the time.
PYTEST := OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest --quiet --numprocesses 2
DEMO := outputs/demo
TO_DEMO := tracker=none output_dir=$(DEMO)

.DEFAULT_GOAL := help
.PHONY: help install lint types test test-all docs bench demo clean

help: ## list what make can do here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## set up .venv with advvae and what its tests need; quick when nothing changed
	@echo "$(VENV) is ready: $(ADVVAE)"

# pip older than 23.1 builds one of the dependencies in a way it warns of itself.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info < (3, 14) else "advvae needs Python 3.10 to 3.13, $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 install")'
	test -x $(VENV_PYTHON) || $(PYTHON) -m venv $(VENV)
	$(VENV_PYTHON) -c 'import pip, sys; sys.exit([int(n) for n in pip.__version__.split(".")[:2]] < [23, 1])' || $(VENV_PYTHON) -m pip install --quiet --upgrade pip
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(SLOW) $(DOCS): $(VENV)/.%: $(INSTALLED)
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

lint: $(INSTALLED) ## check style and layout of the code (ruff)
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m ruff format --check

types: $(INSTALLED) ## check types (mypy)
	$(VENV_PYTHON) -m mypy

test: lint types ## lint, types, and all tests but the slow ones
	$(PYTEST)

test-all: lint types $(SLOW) ## the same with the slow tests: launchers, wheels, long training
	$(PYTEST) -m ''

docs: $(DOCS) ## build the documentation into outputs/site, strictly
	$(VENV_PYTHON) -m mkdocs build
	@echo 'outputs/site is ready. To read it at http://localhost:8000: $(VENV_PYTHON) -m http.server -d outputs/site'

bench: $(INSTALLED) ## measure images/s against the machine's limits and a textbook loop; reads MNIST (ADVVAE_DATA)
	$(VENV_PYTHON) -m benchmarks.throughput

demo: $(INSTALLED) ## train on handwritten digits without the 9; then test, sample, and find photos and 9s as outliers
	rm -rf $(DEMO)
	$(ADVVAE) mode=train dataset=digits 'dataset.drop_classes=[9]' n_epochs=30 batch_size=32 latent_dim=16 kld_weight=2e-3 sample_and_save_frequency=10 $(TO_DEMO)
	$(ADVVAE) mode=test dataset=digits $(TO_DEMO)
	$(ADVVAE) mode=sample dataset=digits num_samples=64 $(TO_DEMO)
	$(ADVVAE) mode=outlier dataset=digits out_dataset=photos $(TO_DEMO)
	$(ADVVAE) mode=outlier dataset=digits out_dataset=digits 'out_dataset.keep_classes=[9]' $(TO_DEMO)
	@echo 'Pictures and tables:'
	@find $(DEMO) -name '*.png' ! -path '*/samples/0*' -o -name '*.csv' -o -name metrics.json | sort

clean: ## remove .venv, caches and builds; outputs and data stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find advvae tests -name __pycache__ -type d -prune -exec rm -rf {} +
