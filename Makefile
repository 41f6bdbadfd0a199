# make demo: install, get the data, run the quick recipe, print the results.    make test: install and run every test.
# make docs: the documentation as a site that opens offline, site/index.html.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
BENCHMARKS := augmentation distillation_overhead grouped_step pruned_step scaling start_up step_overhead whole_recipe
DEMO := runs/quick-$(shell cksum recipes/quick.toml | cut -d' ' -f1)

.PHONY: demo test check docs bench clean

demo: $(VENV)/.demo
	$(VENV)/bin/attar run recipes/quick.toml --out $(DEMO)

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# One after the other, on an otherwise idle machine; BENCH=--write keeps the results and renews docs/benchmarks.md.
bench: $(VENV)/.test
	for name in $(BENCHMARKS); do $(VENV)/bin/python benchmarks/$$name.py $(BENCH) || exit 1; done
	$(VENV)/bin/python scripts/benchmark_page.py

docs: $(VENV)/.docs
	$(VENV)/bin/python scripts/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV)

# torch first: what needs it then finds it installed, at the pinned version.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "attar needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment: on Debian or Ubuntu, apt install python3-venv"; exit 1; }
	$(PIP) install -c constraints.txt torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e '.[plot]'
	@touch $@

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e '.[docs]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e '.[test]'
	@touch $@
