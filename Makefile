# Everything that a person types here sets itself up first; `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-all setup-parser jaeger demo test lint types compose-check unit lab-tests faults campaign matrix bench lock clean

VENV := .venv/bin
# A user's own profile, keys and proxies never reach what runs here.
RUN := scripts/scrubbed
# Seconds after which a part is ended, with its children; `make test` has 20 minutes in all.
# An interrupt, so that labs are taken down; in the foreground, so that Ctrl-C reaches it as well.
LIMIT := timeout --foreground --signal=INT --kill-after=60
PYTEST := $(VENV)/python scripts/run_tests.py

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## packages, virtual environment, Temporal CLI (idempotent; asks nothing)
	@scripts/setup

jaeger: ## set up, and build Jaeger for `lifeboat lab up --with jaeger` (2 to 4 minutes, once)
	@scripts/setup jaeger

setup-all: ## set up, and build what the tests and the lab's backups take (5 minutes, once)
	@scripts/setup jaeger versitygw compose-parser

setup-parser:
	@scripts/setup compose-parser

demo: setup ## kill a primary under load and watch the service come back
	@$(RUN) $(LIMIT) 600 $(VENV)/lifeboat lab demo database-failover --html demo-report.html

test: WHERE := --where-possible
test: setup-all lint types compose-check ## everything that must pass before a change lands (under 20 minutes)
	@$(RUN) $(LIMIT) 1150 $(PYTEST) tests -m "not matrix and not campaign"

campaign: setup-all ## long tests that `make test` leaves out; CI has half of them by turns: HALF=commit (100 minutes in all)
	@$(RUN) $(LIMIT) $(if $(HALF),3600,7200) $(PYTEST) tests -m "campaign and not matrix" $(if $(HALF),--half $(HALF))

lint: setup
	@$(RUN) $(LIMIT) 60 $(VENV)/ruff check .
	@$(RUN) $(LIMIT) 60 $(VENV)/ruff format --check .

types: setup
	@$(RUN) $(LIMIT) 300 $(VENV)/mypy

compose-check: setup-parser ## docker-compose.yml: parsed by the Compose specification's own parser, then what it names is looked for
	@$(RUN) $(LIMIT) 60 $(VENV)/python -m lab.compose $(WHERE)

unit: setup ## the tests that need no server
	@$(RUN) $(LIMIT) 300 $(PYTEST) tests/unit tests/replay

lab-tests: setup-all ## the tests on a lab of real servers
	@$(RUN) $(LIMIT) 1080 $(PYTEST) tests/lab

faults: setup-all ## bad luck: the fixed sample of the fault matrix, and the named faults
	@$(RUN) $(LIMIT) 1080 $(PYTEST) tests/faults -m "not matrix"

matrix: setup-all ## the whole fault matrix (hours)
	@$(RUN) $(PYTEST) tests/faults -m "matrix"

bench: setup ## the figures: BENCH=failover (or switchover, rejoin, cache, queue, restore), RUNS=20 by default
	@$(RUN) $(VENV)/python -m bench.$(or $(BENCH),failover) --runs $(or $(RUNS),20) --json

lock: setup ## write requirements*.txt anew from pyproject.toml (needs uv)
	@scripts/lock

clean: ## what set-up made in this folder (the downloaded Temporal CLI stays in the user's cache)
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
