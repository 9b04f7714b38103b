# `make` alone lists what you can do.

BIN := .venv/bin
SCRIPTS := scripts/setup scripts/go-at-least scripts/collector scripts/try-image scripts/go-programs .ci/run k8s/helm/install-operators.sh k8s/seal.sh
# Two processes share all tests, file by file; a few that somebody picked are run by one, which shows what they print.
ALL_TESTS := --numprocesses 2 --dist loadfile --no-loadscope-reorder
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-header --python-version 3.11 --no-emit-index-url

.DEFAULT_GOAL := help
.PHONY: help run test check bench drill drill-short cluster format docs lock clean

help:
	@echo 'make TARGET [ARGS="…"]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

run: ## Start the whole system on this machine, at http://127.0.0.1:8080 and :8081; set itself up first.
	@scripts/setup
	@exec $(BIN)/urlshortener run $(ARGS)

test: ## Run the tests against real servers, which are installed where that is allowed. ARGS="-k name" picks some.
	@scripts/setup dev servers
	@$(BIN)/pytest $(or $(ARGS),$(ALL_TESTS))

check: ## Look at format, style and types, and change nothing.
	@scripts/setup dev checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); fi

bench: ## Measure how fast it is, beside nginx. ARGS=redirects asks one question; ARGS=--help tells of the others.
	@scripts/setup dev servers
	@$(BIN)/python -m bench $(ARGS)

drill: ## Kill everything under load, for hours, and see that nothing is lost. Goes on where it stopped; ARGS=--anew forgets.
	@scripts/setup dev servers
	@$(BIN)/python -m drill full $(ARGS)

drill-short: ## Every fault of the drill once, and everything that it has to notice, within 20 minutes.
	@scripts/setup dev servers
	@$(BIN)/python -m drill short --anew $(ARGS)

cluster: ## Three nodes on this machine, to play with and to kill, until Ctrl-C.
	@scripts/setup dev servers
	@$(BIN)/python -m drill cluster $(ARGS)

format: ## Bring all code into the one format, and mend what can be mended by itself.
	@scripts/setup dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: ## Write what is made from the code: docs/configuration.md, docs/metrics.md, the objectives' rules, the dashboard, the picture.
	@scripts/setup dev
	$(BIN)/python scripts/configuration_page.py
	$(BIN)/python scripts/metrics_page.py
	$(BIN)/python scripts/objectives.py
	$(BIN)/python scripts/dashboard.py
	$(BIN)/python scripts/picture.py

lock: ## Write both lock files anew, from pyproject.toml. With ARGS=--upgrade to the newest versions.
	@scripts/setup dev
	$(LOCK) $(ARGS) pyproject.toml --group build --output-file requirements.lock
	$(LOCK) $(ARGS) pyproject.toml -c requirements.lock --group dev --output-file requirements-dev.lock

clean: ## Remove what was made here, except your data.
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
