# Everything a user or CI does starts here. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CACHE ?= $(HOME)/.cache/zimage-operator
export CLUSTER_DIR ?= $(CACHE)/cluster
export CONTROL_PLANE_DIR ?= $(CACHE)/control-plane

help: ## What there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## .venv with zimage-operator, zimage-worker and every tool the tests use

# One stamp for all: a changed lock file or a changed list of packages installs again.
$(STAMP): requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) tools/install.py $(VENV)
	@touch $@

demo: install ## The main job: a real node, the operator, one service, and the proof that nothing is open
	@PYTHONPATH=tests $(BIN)/python -m demo

test: install ## Every tier of tests that this machine can run
	@$(BIN)/python tools/run_tests.py

test-peers: install ## The operator beside the real cert-manager, Envoy Gateway, Flux and Argo CD (builds them once: 25 min)
	@$(BIN)/python tools/run_tests.py peers

test-unit: install ## The tests that need no cluster, in seconds
	@$(BIN)/pytest -q -m "not control_plane and not node and not gpu and not peers"

test-worker: install ## Every test of the worker, without a cluster: real processes, clients, proxies, Prometheus, Chromium
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/worker tests/contract

# Each part on its own, whatever the one before it found; the exit code tells of all.
bench: install ## Every figure but the GPU's: bench-operator, bench-worker, bench-edge, bench-model (an hour, a quiet machine)
	@code=0; for part in operator worker edge model; do $(MAKE) --no-print-directory bench-$$part || code=1; done; exit $$code

bench-operator: install ## The operator's figures on the real API server (sizes: ARGS="--services 100 --rest 60")
	@PYTHONPATH=tests $(BIN)/python tests/bench/bench_operator.py $(ARGS)

campaign: install ## Every fault at every write of a service's life; docs/campaign.md has the table
	@PYTHONPATH=operator:tests $(BIN)/python -m faults $(ARGS)

mutants: install ## Break each rule of the design by hand, and see the test fail that shows it (docs/rules.md; ARGS=--pure)
	@PYTHONPATH=tests:operator:worker $(BIN)/python -m mutants $(ARGS)

bench-worker: install ## The worker's figures on the real process with the tiny model
	@PYTHONPATH=tests $(BIN)/python tests/bench/bench_worker.py

bench-edge: install ## What each edge adds to a request, and what it refuses while an honest client is served
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/edge/bench_edge.py

check: install ## Style, types, imports, generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@PYTHONPATH=operator:worker $(BIN)/lint-imports
	@$(BIN)/python tools/generate.py --check

generate: install ## The CRD and everything else that is made from the code
	@$(BIN)/python tools/generate.py

bench-model: install ## Cold load of a re-saved model, and the memory plan against fake tensors
	@PYTHONPATH=worker:tests OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench_model.py

bench-gpu: install ## On a CUDA machine: memory against the plan, seconds against the roofline, 50 pictures
	@PYTHONPATH=worker:tests $(BIN)/python tests/bench/bench_gpu.py

lock: ## Compile requirements/*.txt again from pyproject.toml (needs uv)
	@$(BIN)/python tools/lock.py

cluster: install ## The real test node alone; prints how to use it
	@$(BIN)/python -m tests.cluster up $(CLUSTER_DIR)

cluster-down: ## Ends what `make cluster` started
	@$(PYTHON) -m tests.cluster down $(CLUSTER_DIR)

control-plane: install ## etcd, kube-apiserver, controller-manager, scheduler and a fake node, on loopback
	@$(BIN)/python -m tests.cluster control-plane-up $(CONTROL_PLANE_DIR)

control-plane-down: ## Ends what `make control-plane` started
	@$(PYTHON) -m tests.cluster control-plane-down $(CONTROL_PLANE_DIR)

version: install ## Write VERSION in every place: make version VERSION=1.2.3
	@$(BIN)/python tools/version.py $(VERSION)
	@$(BIN)/python tools/generate.py

release: install ## Everything a release consists of, into dist/VERSION; publishes nothing (ARGS=--without-images: seconds)
	@PYTHONPATH=tests $(BIN)/python tools/release.py $(or $(VERSION),$(error write VERSION=1.2.3)) $(ARGS)

clean: ## Removes .venv and build leftovers (the cache outside the tree stays)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install demo test test-peers test-unit test-worker bench campaign mutants bench-operator bench-worker bench-edge check generate bench-model bench-gpu lock cluster cluster-down control-plane control-plane-down version release clean
