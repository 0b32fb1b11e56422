# Needs Python 3.11 (with its venv module) and make; everything else goes into .venv.
# `make` alone lists the targets.

PYTHON ?= python3.11
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
LOCK := docker/requirements/dev.txt
STAMP := $(VENV)/.installed

.PHONY: help demo test test-long test-browser test-docker test-aws images lint lock bench cluster cluster-down clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(STAMP) ## Run the whole pipeline on generated songs, offline (minutes on 2 cores)
	$(BIN)/python pipeline.py run --profile demo

test: $(STAMP) ## The normal test suite (about 15 minutes on 2 cores)
	$(BIN)/pytest -m "not slow and not browser and not docker and not aws"

test-long: $(STAMP) ## What takes longer; keeps the results in tests/LONG.md
	BIRDSONG_ENGINE=optional tests/docker/run.sh $(BIN)/python tests/long.py

test-browser: $(STAMP) ## The pages in headless Chromium (about three minutes; needs chromium)
	$(BIN)/pytest -m browser

test-docker: $(STAMP) ## Build the images and run the DAG in them (minutes; needs docker, or root)
	tests/docker/run.sh $(BIN)/pytest -m "docker and not slow"

test-aws: $(STAMP) ## Spot jobs, registry and endpoint on your account of AWS (below 1 USD; see tests/aws/)
	$(BIN)/pytest -m aws -s tests/aws

images: $(STAMP) ## Build the images of this code, with a list of what is in each
	PYTHON=$(BIN)/python docker/build.sh

lint: $(STAMP) ## Style, format, strict types, and whether the locked requirements are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	UV=$(BIN)/uv docker/lock.sh --check

lock: $(STAMP) ## Write the hashed requirements anew from pyproject.toml
	UV=$(BIN)/uv docker/lock.sh

bench: $(STAMP) ## Measurements of tests/bench
	@for file in tests/bench/bench_*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

# Variables of both: CLUSTER (name of the kind cluster), CONTEXT and NAMESPACE (of a cluster that is
# there), DATA (folder of recordings), PORT, OVERLAYS (of k8s/overlays), LOAD=no (images by yourself).
CLUSTER_OPTIONS = --name "$(or $(CLUSTER),birdsong)" --context "$(CONTEXT)" \
	--namespace "$(or $(NAMESPACE),kubeflow)" --data "$(DATA)" --port "$(or $(PORT),8080)" \
	--overlays "$(if $(filter undefined,$(origin OVERLAYS)),mlflow,$(OVERLAYS))" \
	--load "$(or $(LOAD),yes)"

cluster: $(STAMP) ## kind with Kubeflow Pipelines, the images and an MLflow server (needs docker, kind, kubectl)
	@$(BIN)/python -m birdsong.kubeflow.cluster up $(CLUSTER_OPTIONS)

cluster-down: $(STAMP) ## Remove that cluster
	@$(BIN)/python -m birdsong.kubeflow.cluster down $(CLUSTER_OPTIONS)

clean: ## Remove the environment and caches, not the runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache birdsong.egg-info

# The stamp is written last, so that a broken installation starts again.
$(STAMP): $(LOCK) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing. On Debian 12 or with the\
	 deadsnakes PPA on Ubuntu: apt-get install python3.11 python3.11-venv; or name one: make\
	 PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is\
	 not Python 3.11, which tensorflow-io needs." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module.\
	 On Debian and Ubuntu: apt-get install python3.11-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode $(LOCK)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
