# Headroom. Every target sets up what it needs: python3 (>= 3.11), python3-venv and make are enough to begin with.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.headroom-installed
OUT    ?= out
FUZZ_SECONDS ?= 600

.PHONY: help setup testbed watch test test-chain test-arm lint bench wheels lock clean fuzz

help:  ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## Make .venv with the pinned, hashed dependencies

CPP := CMakeLists.txt $(wildcard dcu/grid/cpp/* dcu/hosting/cpp/*)

$(STAMP): requirements/dev.txt requirements/build.txt requirements/zig.txt pyproject.toml $(CPP)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; say make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "error: this Python has no venv module; install Debian's package python3-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.txt -r requirements/build.txt
	sh requirements/build.sh $(BIN) --editable .
	@touch $@

testbed: $(STAMP)  ## Run the five scenarios on the virtual street with the real daemons
	$(BIN)/headroom-testbed run --scenario all --out $(OUT)/testbed

watch: $(STAMP)  ## See the street live in the terminal
	$(BIN)/headroom-testbed watch

test: $(STAMP)  ## Unit, pair and street tests
	$(BIN)/python -m pytest -q -m street
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not street"

fuzz: $(STAMP)  ## Coverage-guided fuzzing of the decoders, FUZZ_SECONDS=600 for each
	$(BIN)/python -m shared.tests.fuzz --seconds $(FUZZ_SECONDS)
	$(BIN)/python -m prime_plc.tests.fuzz --seconds $(FUZZ_SECONDS)
	$(BIN)/python -m meter.tests.fuzz --seconds $(FUZZ_SECONDS)
	$(BIN)/python -m dcu.ledger.tests.fuzz --seconds $(FUZZ_SECONDS)

lint: $(STAMP)  ## Style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheels: $(STAMP)  ## The wheel for x86-64 and, cross-compiled, for aarch64; in dist
	sh requirements/wheels.sh $(BIN)

test-chain: $(STAMP)  ## Anchoring on an in-process chain, and what its contract compiles to (installs web3, eth-tester and vyper beside .venv)
	$(BIN)/pip install -q --upgrade --target $(OUT)/chain "web3>=7" "eth-tester[py-evm]" "vyper==0.4.3"
	PYTHONPATH=$(OUT)/chain $(BIN)/python -m pytest -q -o addopts="--import-mode=importlib" dcu/ledger/tests/test_chain.py

test-arm: wheels  ## The aarch64 wheel's sweep under qemu-user (Debian packages qemu-user and libc6-arm64-cross)
	sh requirements/test_arm.sh $(BIN)

bench: $(STAMP)  ## Measure; JSON in out/bench
	$(BIN)/python -m benchmarks --out $(OUT)/bench
	$(BIN)/python -m benchmarks.grid --out $(OUT)/bench
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.decision --out $(OUT)/bench
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.plc_street --out $(OUT)/bench
	$(BIN)/python -m benchmarks.plc --out $(OUT)/bench
	$(BIN)/python -m benchmarks.ledger --out $(OUT)/bench
	$(BIN)/python -m benchmarks.utility --out $(OUT)/bench
	$(BIN)/python -m benchmarks.web --out $(OUT)/bench
	$(BIN)/python -m benchmarks.store --out $(OUT)/bench
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.dcu_memory --out $(OUT)/bench
	$(BIN)/python -m benchmarks.planning --out $(OUT)/bench

lock: $(STAMP)  ## Renew requirements/*.txt (needs uv on the PATH)
	sh requirements/lock.sh

clean:  ## Remove everything made here
	rm -rf $(VENV) $(OUT) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +
