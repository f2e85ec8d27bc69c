# `make demo` and `make test` set up all they need, in .venv; `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
EXAMPLE := examples/healthcare/heart/run.toml
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# Debian packages that tests need and a bare image lacks. Installed only when missing.
APT := postgresql iproute2 nftables faketime strace nginx-light libnginx-mod-stream
# What is imported once is compiled once: tests start many processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# What is installed: a stamp per set, older than a change in what the set is made of.
INSTALLED_BY := pyproject.toml constraints.txt scripts/install

$(VENV)/demo: $(INSTALLED_BY)
	@echo "Installing Hanse and PyTorch into $(VENV)"
	@scripts/install $(VENV) -e '.[torch,fast]'
	@touch $@

$(VENV)/dev: $(INSTALLED_BY) | system
	@echo "Installing Hanse and all that its tests and docs need into $(VENV)"
	@scripts/install $(VENV) -e '.[dev,docs]'
	@touch $@ $(VENV)/demo  # it holds the demo's set too

.PHONY: system
system:
	@missing=$$(for p in $(APT); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	[ -z "$$missing" ] || { apt-get update -q && apt-get install -qy --no-install-recommends $$missing; }

.PHONY: demo
demo: $(VENV)/demo  ## four hospitals train one model without pooling a row
	$(BIN)/hanse run $(EXAMPLE) --baselines --seeds 5

.PHONY: test
test: check unit docs core  ## everything that CI runs

.PHONY: check
check: $(VENV)/dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	@echo "silenced lines in src:" \
	  "$$(grep -rhoE '# (noqa|pyright|type): ?[a-zA-Z]+' --include='*.py' src | wc -l)"

.PHONY: unit
unit: $(VENV)/dev  ## the tests alone
	$(PYTEST) -q

.PHONY: coverage
coverage: $(VENV)/dev  ## the tests, and branch coverage of floors 0 and 1
	$(PYTEST) -q --cov --cov-report=term

.PHONY: torture
torture: $(VENV)/dev  ## the tests, slow ones too, with many more examples each
	$(PYTEST) -q -m '' --hypothesis-profile=torture --timeout=3600

.PHONY: docs
docs: $(VENV)/dev  ## build the documentation into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: core
core: $(VENV)/dev  ## an install without optional extras still explains a run
	rm -rf .venv-core
	scripts/install .venv-core .
	.venv-core/bin/hanse --version
	.venv-core/bin/hanse --help > /dev/null
	.venv-core/bin/hanse explain $(EXAMPLE) > /dev/null
	! .venv-core/bin/python -c 'import torch' 2> /dev/null
	rm -rf .venv-core

.PHONY: bench
bench: $(VENV)/dev  ## what a round costs beside a bare PyTorch loop, and beside a bare transfer
	$(BIN)/python benchmarks/simulation/compare.py
	$(BIN)/python benchmarks/simulation/scale.py
	$(BIN)/python benchmarks/privacy/dp_sgd.py
	$(BIN)/python benchmarks/deployed/compare.py

.PHONY: bench-peers
bench-peers: $(VENV)/dev  ## the same beside pfl, Flower, FedJAX and NVFlare, each in an environment of its own
	$(BIN)/python benchmarks/simulation/peers.py
	$(BIN)/python benchmarks/deployed/peers.py

.PHONY: constraints
constraints: $(VENV)/dev  ## choose new versions for constraints.txt (needs uv)
	scripts/lock > constraints.new
	mv constraints.new constraints.txt

.PHONY: clean
clean:  ## remove all that was made here, runs/ excepted
	rm -rf $(VENV) .venv-core benchmarks/*/peers/.venv-* site build dist .coverage .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
