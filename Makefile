# Each target does the set-up that it needs: a .venv in this folder, nothing global. ARGS=… is handed on.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test chaos lint bench proto lock format images clean distclean

help:  ## what can be made
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup:  ## make .venv with all that Trellis needs (PYTHON=… to choose the interpreter)
	@scripts/setup

demo: setup  ## two tenants tune an adapter each on one base, and call both (ARGS="--summary FILE")
	@.venv/bin/trellis demo $(ARGS)

test: setup  ## every test but the benchmarks (ARGS="-k quota" or a path)
	@scripts/test $(ARGS)

lint: setup  ## style, types, import rules, dependencies, proto, generated code
	@scripts/lint

format: setup  ## put Python and proto files into the house's shape
	@.venv/bin/ruff check --quiet --fix-only . && .venv/bin/ruff format . && .venv/bin/buf format --write proto

chaos: setup  ## break a whole installation on purpose, and look at what is left (TRELLIS_CHAOS_SEED=… for another order)
	@.venv/bin/python -m pytest -m ray tests/chaos/test_chaos.py $(ARGS)

bench: setup  ## every script of tests/bench, its rows as JSON in build/bench (ARGS=--quick)
	@mkdir -p build/bench
	@set -e; for script in tests/bench/*.py; do name=$$(basename $$script .py); [ $$name != __init__ ] || continue; \
	    echo "== $$name"; .venv/bin/python -m tests.bench.$$name $(ARGS) --json build/bench/$$name.json; done

proto: setup  ## generate services/trellis/v1 and docs/access.md from proto/
	@scripts/generate-proto

images:  ## build the container images with docker buildx (ARGS="--cpu", "--push --registry …")
	@scripts/build-images $(ARGS)

lock:  ## resolve every dependency anew and write requirements.lock
	@scripts/lock

clean:  ## remove what building, testing and linting leave behind
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
	@find services ray_jobs tests deploy scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean  ## remove .venv too
	@rm -rf .venv
