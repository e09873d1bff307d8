# One command for each: set up, demo, format, check, test. `make help` lists them.
.DEFAULT_GOAL := help
BIN := .venv/bin
FORGE := PATH="$(CURDIR)/$(BIN):$$PATH" tools/forge

.PHONY: help setup cheat demo fmt check unit contracts prover fuzz test bench openapi clean

help: ## List the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: ## Install everything under this folder (safe to repeat)
	@./setup.sh

demo: setup ## Publish a model, predict over HTTP and on chain, verify both (writes build/demo.json)
	@$(BIN)/zkserve demo

fmt: setup ## Format Python and Solidity
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cd contracts && $(FORGE) fmt

check: setup ## Lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd contracts && $(FORGE) fmt --check

# In as many processes as there are processors, four at most; a file stays whole, for what its tests share.
unit: setup ## The fast tests
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

contracts: setup ## Foundry's tests
	cd contracts && $(FORGE) test

# A prover that lies, for the tests of verifiers; never installed. The sources decide whether it is built anew.
cheat: setup
	@if command -v $${CXX:-c++} >/dev/null; then \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt cmake ninja nanobind && \
	  $(BIN)/cmake -S zkserve/engines/native/cpp -B build/cheat -G Ninja -DZKSERVE_TEST_CORE=ON \
	    -DZKSERVE_VARIANTS= -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" >/dev/null && \
	  $(BIN)/ninja -C build/cheat --quiet; \
	fi

prover: cheat ## Tests that make real proofs, drive a real node, run the whole product
	$(BIN)/pytest -m "prover or chain or e2e or gpu" --durations=25

fuzz: setup ## Change models and upload them for SECONDS=60 (finds are kept in build/fuzz)
	$(BIN)/python -m tests.fuzz.upload --seconds $(or $(SECONDS),60)

test: check unit contracts prover ## Everything this machine can run

bench: setup ## Benchmarks with raw results under benchmarks/results
	for weights in fixed hashed; do for model in breast_cancer digits_cnn; do \
	  $(BIN)/python -m benchmarks.ezkl_tuned --model $$model --weights $$weights --batch 8 \
	    --out benchmarks/results/ezkl_tuned.json || exit 1; \
	done; done
	$(BIN)/python -m benchmarks.ezkl_tuned --model lenet_mnist --weights fixed \
	  --out benchmarks/results/ezkl_tuned.json
	$(BIN)/python -m benchmarks.service_overhead --out benchmarks/results/service_overhead.json
	for model in breast_cancer digits_cnn lenet_mnist cnn_264k dense_4m; do \
	  $(BIN)/python -m benchmarks.native_vs_ezkl --model $$model \
	    --out benchmarks/results/native_vs_ezkl.json || exit 1; \
	done
	$(BIN)/python -m benchmarks.native_scaling --out benchmarks/results/native_scaling.json
	$(BIN)/python -m benchmarks.native_vs_ezkl --table
	$(BIN)/python -m benchmarks.native_kernels --out benchmarks/results/native_kernels.json
	$(BIN)/python -m benchmarks.native_scaling --table
	$(BIN)/python -m benchmarks.native_batches --out benchmarks/results/native_batches.json
	$(BIN)/python -m benchmarks.native_batches --table
	$(BIN)/python -m benchmarks.native_kernels --table
	$(BIN)/python -m benchmarks.ezkl_tuned --table
	$(BIN)/python -m benchmarks.service_overhead --table
	$(BIN)/python -m benchmarks.extraction --out benchmarks/results/extraction.json
	$(BIN)/python -m benchmarks.extraction --table
	$(BIN)/python -m benchmarks.cost_model --out benchmarks/results/cost_model.json
	$(BIN)/python -m benchmarks.cost_model --fit

openapi: setup ## Write the OpenAPI snapshot anew
	ZKSERVE_UPDATE_OPENAPI=1 $(BIN)/pytest -q tests/service/test_api_openapi.py

clean: ## Remove what the commands above made, data folder excepted
	rm -rf build .venv contracts/out contracts/cache contracts/node_modules
