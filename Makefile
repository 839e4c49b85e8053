# make demo    set up, start a server with the built-in model, stream the sample clip to out/video.mp4, stop
# make test    set up, run all tests
# make help    all targets

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Another package index for pip to take torch from: PyTorch's own for the CPU, say, whose builds are small.
TORCH_INDEX_URL ?=

# OpenMP threads that spin at barriers starve each other when the machine is busy with something else as well.
export OMP_WAIT_POLICY ?= PASSIVE

SOURCES := protos/framehaul pipeline server/framehaul_server client fleet deploy tests bench docs/examples

# Folders that tests hold in every branch.
comma := ,
WHOLE := */protos/framehaul/*,*/core/*,*/scheduling/*,*/session/*,*/admission/*,*/rings/*,*/models/*,*/rpc/*,*/source/*,*/highlight/rank.py

include bench/targets.mk

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-workers test-servers test-rest test-machines check lint format types layers proto proto-check faults soak soak-fleet fuzz nightly coverage train-tiny clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## Create .venv and install everything; nothing to do when it is current

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed: make PYTHON=python3.12, say'; exit 1; }
	@echo "setting up $(VENV): a few minutes the first time (torch is large)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(if $(TORCH_INDEX_URL),$(BIN)/python -m pip install --index-url $(TORCH_INDEX_URL) 'torch>=2.6$(comma)<3')
	$(BIN)/python -m pip install --progress-bar on --editable '.[server]' --group dev
	@touch $@

demo: setup ## Stream the sample clip to out/video.mp4
	@$(BIN)/python client/demo.py

# Three thirds side by side: tests of running servers wait as much as they compute.
PYTEST ?= $(BIN)/python -m pytest -q
WORKERS := tests/faults tests/integration/client tests/integration/pipeline

test: setup ## Run all tests
	$(MAKE) --no-print-directory --jobs=3 --output-sync=target test-workers test-servers test-rest

test-workers:
	$(PYTEST) $(WORKERS)

test-servers:
	$(PYTEST) tests/integration $(WORKERS:%=--ignore=%)

test-rest:
	$(PYTEST) --ignore=tests/faults --ignore=tests/integration

check: lint types layers proto-check coverage ## All that CI runs

lint: setup ## Formatting and lint
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

format: setup ## Rewrite sources in the house format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

types: setup ## mypy --strict
	$(BIN)/mypy protos/framehaul pipeline/framehaul_pipeline server/framehaul_server client/framehaul_client fleet/framehaul_fleet client/demo.py \
		tests bench docs/examples
	cd pipeline && ../$(BIN)/mypy --config-file ../pyproject.toml training

layers: setup ## Who may import whom
	$(BIN)/lint-imports

# The generator is the oldest that we support, so that its code runs on every grpcio and protobuf in our range.
.venv-proto/.installed: Makefile
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/python -m pip install --quiet grpcio-tools==1.80.0 mypy-protobuf==3.7.0
	@touch $@

PROTOC = .venv-proto/bin/python -m grpc_tools.protoc -Iprotos \
	--plugin=protoc-gen-mypy=.venv-proto/bin/protoc-gen-mypy \
	--plugin=protoc-gen-mypy_grpc=.venv-proto/bin/protoc-gen-mypy_grpc

proto: .venv-proto/.installed ## Generate the stubs again
	$(PROTOC) --python_out=protos --grpc_python_out=protos --mypy_out=quiet:protos --mypy_grpc_out=quiet:protos \
		protos/framehaul/v1/*.proto

proto-check: .venv-proto/.installed ## The stubs in the repository are those of the .proto
	rm -rf out/proto && mkdir -p out/proto
	$(PROTOC) --python_out=out/proto --grpc_python_out=out/proto --mypy_out=quiet:out/proto \
		--mypy_grpc_out=quiet:out/proto protos/framehaul/v1/*.proto
	for file in out/proto/framehaul/v1/*; do diff -u protos/framehaul/v1/$$(basename $$file) $$file || exit 1; done

faults: setup ## Break everything that may break, and print how long it took to recover
	$(BIN)/python -m pytest -q tests/faults

SECONDS ?= 60

soak: setup ## Random kills and cuts against a real server for SECONDS=60, on DEVICE=cpu; fails when anything is lost, left or grows
	$(BIN)/python -m tests.faults.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(DEVICE),--device $(DEVICE))

soak-fleet: setup ## A fleet on nodes of Ray, on this machine: from up to down, then while everything in it is killed for SECONDS=60
	$(BIN)/python -m pip install --quiet --editable '.[server,fleet]'
	WITH_RAY=1 $(BIN)/python -m pytest -q tests/integration/fleet/test_on_ray.py
	$(BIN)/python -m tests.faults.soak_fleet --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(CLIENTS),--clients $(CLIENTS))

fuzz: setup ## Any bytes at codec, validator and file headers, for SECONDS=60 each
	$(BIN)/python -m pip install --quiet --group fuzz
	for target in codec validator latents_header weights_header; do \
		$(BIN)/python -m tests.fuzz.run $$target --seconds $(SECONDS) || exit 1; done

# Processors differ in how they sum, and so in rounding; beside a busy process things come late, and in another order.
test-machines: export PYTEST_TIMEOUT = 600
test-machines: setup ## All tests as on older processors, and beside a busy process
	for isa in SSE41 AVX2; do ONEDNN_MAX_CPU_ISA=$$isa $(MAKE) --no-print-directory test || exit 1; done
	timeout 1h $(BIN)/python -c 'while True: pass' & trap "kill $$!" EXIT; $(MAKE) --no-print-directory test

nightly: setup ## What takes too long for each change: tests as on other machines, 200 sequences, all of benchmarks' programs, soaks, fuzzing; an hour and a half
	$(MAKE) --no-print-directory test-machines PYTEST="$(PYTEST) --hypothesis-profile=others"
	RESUME_SEQUENCES=200 RESUME_SEED=$(or $(SEED),$(shell date +%Y%m%d)) \
		$(BIN)/python -m pytest -q tests/integration/resume/test_machine.py
	BENCH_WHOLE=1 $(BIN)/python -m pytest -q tests/integration/bench
	FLEET_SERVERS=500 $(BIN)/python -m pytest -q tests/property/test_placement.py
	$(MAKE) --no-print-directory soak SECONDS=600
	$(MAKE) --no-print-directory soak-fleet SECONDS=300
	$(MAKE) --no-print-directory fuzz SECONDS=600

coverage: setup ## All tests; the folders in WHOLE must be covered in every branch
	$(BIN)/coverage erase
	$(MAKE) test PYTEST="$(BIN)/coverage run --parallel-mode -m pytest -q"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage report --fail-under=100 --show-missing --include="$(WHOLE)"

train-tiny: setup ## Train the built-in model again, on a GPU; going on where an earlier run stopped
	$(BIN)/python -m pip install --quiet --group train
	cd pipeline && ../$(BIN)/python -m training.prepare --out ../out/media
	cd pipeline && ../$(BIN)/python -m training.train --media ../out/media --out ../out/tiny
	cd pipeline && ../$(BIN)/python -m training.evaluate --media ../out/media --weights ../out/tiny/tiny.safetensors \
		--out ../out/tiny/evaluation

clean: ## Remove what the other targets made
	rm -rf out .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis $(VENV) .venv-proto
