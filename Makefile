# A table of contents: every verb says what it does (`make help`), and what it takes more than a line to do is in
# deploy/local. Works on a fresh Debian 12 with Python 3.11, git and make.

.DEFAULT_GOAL := help
.PHONY: help setup run up down status logs reset jaeger migrate proto lock format check test test-long bench

PYTHON_BIN := .venv/bin/python
MESH := $(PYTHON_BIN) -m deploy.local
export PYTHONPATH := .:proto

BENCHMARKS := mesh_chat tasks_durable tasks_peers tasks_scale tasks_recovery ratelimit_decisions llm_chat

# What runs needs one lock file, what checks needs the other; both end at once when nothing changed.
RUNTIME := deploy/local/venv.sh requirements.lock
DEVELOPMENT := deploy/local/venv.sh requirements-dev.lock

##@ Running

help: ## show this
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install everything for running and development
	@$(RUNTIME) && $(DEVELOPMENT) && $(MESH) packages

run: ## run the whole mesh in this terminal; Ctrl-C ends it
	@$(RUNTIME) && exec $(MESH) run

up: ## run it in the background
	@$(RUNTIME) && exec $(MESH) up

down: ## end it
	@$(RUNTIME) && exec $(MESH) down

status: ## show its processes
	@$(RUNTIME) && exec $(MESH) status

logs: ## follow its logs; NAMES="gateway tasks" shows only these
	@$(RUNTIME) && exec $(MESH) logs $(NAMES)

reset: ## remove all its data
	@$(RUNTIME) && exec $(MESH) reset

migrate: ## bring the schemas in DATABASE_URL, or of the running copy, up to date
	@$(RUNTIME) && exec $(MESH) migrate

jaeger: ## build Jaeger from its source (needs Go, takes minutes); `make run` then starts it
	@$(RUNTIME) && exec $(MESH) jaeger

##@ Changing

proto: ## generate the stubs of all contracts
	@$(DEVELOPMENT) && deploy/local/stubs.sh

lock: ## pin the dependencies; UPGRADE=--upgrade moves them to the newest
	@$(DEVELOPMENT) && deploy/local/lock.sh $(UPGRADE)

format: ## format the code, and fix what can be fixed by machine
	@$(DEVELOPMENT) && .venv/bin/ruff format . && .venv/bin/ruff check --fix .

##@ Proving

check: ## lint, types, import contracts, stub drift
	@$(DEVELOPMENT)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/pytest tests/architecture

test: ## all tests but the long ones; they start and stop their own stores
	@$(DEVELOPMENT) && $(MESH) packages
	.venv/bin/pytest -m "not long" --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: ## the tests that take minutes each
	@$(DEVELOPMENT) && $(MESH) packages
	.venv/bin/pytest -m long $(ARGS)

bench: ## the benchmarks, one after the other; NAMES=mesh_chat runs only this, ARGS goes to each
	@$(DEVELOPMENT) && $(MESH) packages wrk
	@set -e; for name in $(or $(NAMES),$(BENCHMARKS)); do $(PYTHON_BIN) -m bench.$$name $(ARGS); done
