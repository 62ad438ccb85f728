# The developer's day. CI (.ci/run) runs these same targets.
PYTHON ?= $(shell for p in .venv/bin/python python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PYTEST_ARGS ?=
BENCH_ARGS ?=
JOBS ?= 500
FAULTS ?= 108
DELIVERIES ?= 1000
BESIDE ?= 5000
SEED ?= 1

# None of these may ask a model hub: what they need is installed. `make up` may: its models are the user's.
demo test test-servers unit chaos mutants bench bench-burst bench-engine bench-peers: export HF_HUB_OFFLINE := 1
demo test test-servers unit chaos mutants bench bench-burst bench-engine bench-peers: export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-servers unit chaos mutants check format bench bench-burst bench-engine bench-peers lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install:  ## everything into .venv, and the built-in model into the cache; a second time it does nothing
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "install: no Python 3.11 or newer found: install one, or name it: make install PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@$(PYTHON) -u install.py

demo: install  ## six real jobs on this machine, shown as they run; then everything is stopped
	@$(BIN)/nowserving demo

up: install  ## Redis, the API and a worker on this machine, till Ctrl-C
	@$(BIN)/nowserving up

test: install  ## all tests but chaos
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/e2e tests/integration tests/unit $(PYTEST_ARGS)

unit: install  ## the tests that need no Redis and no process
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

chaos: export NOWSERVING_CHAOS_JOBS := $(JOBS)
chaos: export NOWSERVING_CHAOS_FAULTS := $(FAULTS)
chaos: export NOWSERVING_CHAOS_SEED := $(SEED)
chaos: export NOWSERVING_CHAOS_DELIVERIES := $(DELIVERIES)
chaos: export NOWSERVING_CHAOS_BESIDE := $(BESIDE)
chaos: install  ## FAULTS of all kinds while JOBS run; DELIVERIES whose deliverers are killed; prints what must be zero
	$(BIN)/python -m pytest tests/chaos $(PYTEST_ARGS)

test-servers: export NOWSERVING_TEST_REDIS_SERVERS := $(SERVERS)
test-servers: install  ## the tests that Redis's version matters to, on every Redis and Valkey found, and on SERVERS (path:path)
	$(BIN)/python -m tests.servers $(PYTEST_ARGS)

mutants: install  ## each promise's mechanism taken out, one by one: does its test notice?
	$(BIN)/python -m tests.mutation

check: install  ## format, lint, types, layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install  ## let ruff mend what it can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: install  ## nowserving beside FastAPI + Celery as the tutorials have them, a deliverer's webhooks a second, bench-burst
	$(BIN)/python -m bench.queue $(BENCH_ARGS)
	$(BIN)/python -m bench.post
	$(BIN)/python -m bench.burst $(filter --quick,$(BENCH_ARGS))

bench-burst: install  ## a burst from no worker and back to none, by several ways to scale
	$(BIN)/python -m bench.burst $(BENCH_ARGS)

bench-engine: install  ## the engine, bare and through the whole stack, beside transformers' generate; a good half hour
	$(BIN)/python -m bench.engine $(BENCH_ARGS)

bench-peers: install  ## nowserving beside Ray Serve's asynchronous inference
	$(BIN)/python -m bench.queue --peer ray $(BENCH_ARGS)

lock: install  ## pin anew what pyproject.toml asks for; UPGRADE=--upgrade takes the newest
	$(BIN)/python -m pip install --quiet --group lock
	$(BIN)/python -m uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 $(UPGRADE) \
		--no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements.lock

clean:  ## remove .venv, caches and what the benchmarks made; the model cache stays
	rm -rf .venv .bench dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
