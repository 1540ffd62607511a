# Endcap. `make demo` runs it, `make test` passes the tests; neither needs anything installed by hand but
# Rust, a C compiler, Python 3 with pip, and make.

TOOLS      := .tools
ORT        := $(TOOLS)/onnxruntime/libonnxruntime.so
PIPELINES  := $(TOOLS)/pipelines
TRAINERS   := $(TOOLS)/trainers
TORCH      := $(TOOLS)/torch
AIRFLOW    := $(TOOLS)/airflow
BENCH      := $(PIPELINES)/bin/python deploy/bench
ETCD       := $(TOOLS)/etcd/etcd
TEST_TOOLS := $(TOOLS)/tests
ORT_GPU    := $(TOOLS)/onnxruntime-gpu/libonnxruntime.so
CUDA       := $(TOOLS)/cuda/stamp
PROMETHEUS := $(TOOLS)/prometheus/prometheus
REDIS      := $(TOOLS)/redis/redis-server
GRAFANA    := $(TOOLS)/grafana
DEMO       := deploy/demo/search-ranker.endcap
HELM_TOOLS := $(TOOLS)/helm
DOCKER     := $(TOOLS)/docker
KUBERNETES := $(TOOLS)/kubernetes
CARGO      ?= cargo
# What `endcap --version` says; empty outside git, or where the image's build passes it.
COMMIT     ?= $(shell git describe --always --dirty --abbrev=12 --exclude '*' 2>/dev/null)
ARGS       ?=
# A folder in the layout of deploy/pipelines/README.md. Empty: the simulated shop.
DATA       ?= $(ENDCAP_DATA)
SHARDS     ?= 4
SHOP       := $(TOOLS)/shop/products.parquet

export ORT_DISABLE_TELEMETRY := 1
export ORT_DYLIB_PATH ?= $(abspath $(ORT))

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(ORT) ## Get ONNX Runtime's library (pinned by hash) into .tools

$(ORT): deploy/onnxruntime/fetch.sh
	deploy/onnxruntime/fetch.sh $(dir $@)
	@touch -h $@

$(ORT_GPU): deploy/onnxruntime/fetch-gpu.sh
	deploy/onnxruntime/fetch-gpu.sh $(dir $@)
	@touch -h $@

.PHONY: build
build: $(ORT) ## Build the release binary, with ONNX Runtime's library beside it
	ENDCAP_COMMIT=$(COMMIT) $(CARGO) build --release --locked --bin endcap
	@ln -sf $(abspath $(ORT)) target/release/libonnxruntime.so

.PHONY: demo
ifeq ($(DATA),)
demo: build ## Run a whole fleet on the simulated shop (DATA=folder: on your data)
	target/release/endcap demo $(ARGS)
else
demo: build bundles/data.endcap
	target/release/endcap demo --bundle bundles/data.endcap $(ARGS)
endif

.PHONY: fleet
fleet: build $(ETCD) ## Run the fleet as separate processes on a real etcd (BASE_PORT=9400 WORKERS=4)
	deploy/fleet/fleet.sh up

.PHONY: monitor
monitor: $(PROMETHEUS) ## Put Prometheus and Alertmanager beside it, with the alerting rules
	deploy/fleet/fleet.sh monitor

.PHONY: fleet-down
fleet-down: ## End it (KEEP=0: and remove its data)
	deploy/fleet/fleet.sh down

.PHONY: bundle
ifeq ($(DATA),)
bundle: build $(PIPELINES)/stamp $(SHOP) ## Build the demo bundle from the simulated shop (DATA=folder: a bundle of your data)
	@# As trained, for what is kept in the repository: no time is measured, so the same commit makes the same bytes.
	$(PIPELINES)/bin/python -m endcap_pipelines.bundle --data $(TOOLS)/shop --out $(TOOLS)/shop-source --as-trained
	@mkdir -p $(dir $(DEMO))
	target/release/endcap bundle pack $(TOOLS)/shop-source --file $(DEMO) --shards $(SHARDS) --created 2026-01-01T00:00:00Z
else
bundle: bundles/data.endcap
endif

bundles/data.endcap: build $(PIPELINES)/stamp
	@mkdir -p bundles
	$(PIPELINES)/bin/python -m endcap_pipelines.bundle --data $(DATA) --out $(TOOLS)/data-source
	target/release/endcap bundle pack $(TOOLS)/data-source --file $@ --shards $(SHARDS)

$(SHOP): $(wildcard crates/endcap-shop/src/*.rs)
	$(CARGO) run --release --locked -p endcap-shop -- generate --seed 7 --out $(dir $@)
	@touch $@

# Whose fleet: REGISTRY and GATEWAY, or that of `make fleet`, which is started where it is not up. A work folder for each
# data: the next run's data is compared with the last one's.
LEARNT_FROM := $(abspath $(or $(DATA),$(dir $(SHOP))))
WORK      ?= .endcap/pipeline-$(notdir $(LEARNT_FROM))
ENDCAP    ?= target/release/endcap
BASE_PORT ?= 9400
REGISTRY  ?=
GATEWAY   ?= http://127.0.0.1:$(BASE_PORT)
# The Python that has the recipe's framework; `make trainers` makes one that has all.
PYTHON    ?= $(PIPELINES)/bin/python

.PHONY: pipeline
pipeline: build $(PIPELINES)/stamp $(if $(DATA),,$(SHOP)) $(if $(REGISTRY),,$(ETCD)) ## From data to stable on a fleet (DATA=folder; REGISTRY=url GATEWAY=url: a running one)
	$(if $(REGISTRY),,ENDCAP=$(ENDCAP) BASE_PORT=$(BASE_PORT) deploy/fleet/fleet.sh up)
	ENDCAP_BIN=$(ENDCAP) ENDCAP_GATEWAY_URL=$(GATEWAY) \
	  ENDCAP_REGISTRY_URL=$(or $(REGISTRY),http://127.0.0.1:$(shell echo $$(($(BASE_PORT) + 20)))) \
	  $(PYTHON) -m endcap_pipelines.pipeline --params deploy/pipelines/params.yaml --work $(WORK) \
	  --set data=$(LEARNT_FROM) $(ARGS)

$(PIPELINES)/stamp: deploy/pipelines/requirements.txt deploy/python/venv.sh
	deploy/python/venv.sh $(PIPELINES) deploy/pipelines/requirements.txt deploy/pipelines
	@touch $@

$(TRAINERS)/stamp: deploy/pipelines/trainers.txt deploy/python/venv.sh
	deploy/python/venv.sh $(TRAINERS) deploy/pipelines/trainers.txt deploy/pipelines
	@touch $@

$(TORCH)/stamp: deploy/pipelines/torch.txt deploy/python/venv.sh
	deploy/python/venv.sh $(TORCH) deploy/pipelines/torch.txt deploy/pipelines
	@touch $@

.PHONY: torch
torch: $(TORCH)/stamp ## Get PyTorch (6 GB) into .tools

.PHONY: trainers
trainers: $(TRAINERS)/stamp ## Get the frameworks that train (TensorFlow, Paddle, LightGBM, Optuna, DVC; 3.2 GB) into .tools

$(AIRFLOW)/stamp: deploy/pipelines/airflow/requirements.txt deploy/python/venv.sh
	deploy/python/venv.sh $(AIRFLOW) deploy/pipelines/airflow/requirements.txt
	@touch $@

.PHONY: airflow
airflow: $(AIRFLOW)/stamp ## Get Airflow into .tools

$(TEST_TOOLS)/stamp: tests/tools/requirements.txt deploy/python/venv.sh
	deploy/python/venv.sh $(TEST_TOOLS) tests/tools/requirements.txt
	@touch $@

$(HELM_TOOLS)/stamp: tests/helm/requirements.txt deploy/python/venv.sh
	deploy/python/venv.sh $(HELM_TOOLS) tests/helm/requirements.txt
	@touch $@

$(ETCD): deploy/etcd/fetch.sh deploy/debian/unpack.sh
	deploy/etcd/fetch.sh $(dir $@)
	@touch -h $@

$(REDIS): deploy/redis/fetch.sh deploy/debian/unpack.sh
	deploy/redis/fetch.sh $(dir $@)
	@touch -h $@

$(GRAFANA)/stamp: deploy/grafana/requirements.txt deploy/python/venv.sh
	deploy/python/venv.sh $(GRAFANA) deploy/grafana/requirements.txt
	@touch $@

.PHONY: dashboards
dashboards: $(GRAFANA)/stamp ## Write the Grafana dashboards and the catalogue of metrics
	$(GRAFANA)/bin/python deploy/grafana/dashboards.py
	$(CARGO) run --locked --quiet --bin endcap -- metrics > deploy/prometheus/METRICS.md

$(PROMETHEUS): deploy/prometheus/fetch.sh deploy/debian/unpack.sh
	deploy/prometheus/fetch.sh $(dir $@)
	@touch -h $@

$(DOCKER)/stamp: deploy/docker/fetch.sh deploy/debian/unpack.sh
	deploy/docker/fetch.sh $(dir $@)
	@touch $@

.PHONY: setup-tests
setup-tests: $(ORT) $(ETCD) $(REDIS) $(PROMETHEUS) $(GRAFANA)/stamp $(PIPELINES)/stamp $(TEST_TOOLS)/stamp $(HELM_TOOLS)/stamp $(DOCKER)/stamp ## Get everything that tests talk to

.PHONY: test
test: setup-tests ## Run every test
	$(CARGO) test --workspace --locked --no-fail-fast
	$(PIPELINES)/bin/python -m pytest -q deploy/pipelines/tests --ignore=$(TRAINING_TESTS) --ignore=$(FLOW_TESTS)
	$(PIPELINES)/bin/python -m pytest -q deploy/bench/tests
	$(HELM_TOOLS)/bin/python -m pytest -q -p no:cacheprovider tests/helm

TRAINING_TESTS := deploy/pipelines/tests/trainers
FLOW_TESTS := deploy/pipelines/tests/flow

.PHONY: test-pipelines
test-pipelines: $(ORT) $(PIPELINES)/stamp $(TRAINERS)/stamp $(AIRFLOW)/stamp ## Run the tests of the trainers, DVC and Airflow, each of them real
	@# As `make test` builds it: with fewer packages the features would differ, and half the tree be built again.
	$(CARGO) test --workspace --locked --no-run --quiet
	$(TRAINERS)/bin/python -m pytest -q -rs $(TRAINING_TESTS)
	$(PIPELINES)/bin/python -m pytest -q $(FLOW_TESTS)

.PHONY: test-torch
test-torch: $(ORT) $(TORCH)/stamp ## Run the tests of the trainers in PyTorch; CI leaves them out for their 6 GB
	$(CARGO) test --workspace --locked --no-run --quiet
	$(TORCH)/bin/python -m pytest -q -rs $(TRAINING_TESTS)/test_recipes.py $(TRAINING_TESTS)/test_two_tower.py -k torch

$(KUBERNETES)/stamp: tests/helm/kubernetes.sh deploy/debian/unpack.sh
	tests/helm/kubernetes.sh $(dir $@)
	@touch $@

.PHONY: kubernetes
kubernetes: $(KUBERNETES)/stamp ## Build a Kubernetes for the chart's tests into .tools, in about 7 minutes (root on Debian)

.PHONY: test-kubernetes
test-kubernetes: kubernetes $(ORT) $(ETCD) $(REDIS) $(HELM_TOOLS)/stamp $(DOCKER)/stamp ## Run the chart's tests on that Kubernetes
	$(CARGO) test --workspace --locked --no-run --quiet
	$(HELM_TOOLS)/bin/python -m pytest -q -rs -p no:cacheprovider tests/helm/test_kubernetes.py

$(CUDA): deploy/onnxruntime/fetch-cuda.sh deploy/onnxruntime/cuda.txt
	deploy/onnxruntime/fetch-cuda.sh $(dir $@)
	@touch $@

.PHONY: test-gpu-image
test-gpu-image: $(ORT) $(ORT_GPU) $(CUDA) $(HELM_TOOLS)/stamp $(DOCKER)/stamp ## Build the image for GPUs, of 2 GB, and run it without one
	$(CARGO) test --workspace --locked --no-run --quiet
	$(HELM_TOOLS)/bin/python -m pytest -q -rs -p no:cacheprovider tests/helm/test_image.py

# Measurements are no tests: they need a quiet machine. QUICK=1: everything in the small, in about two minutes.
QUICK ?=
PARTS := $(wildcard crates/*/benches/*.rs)

.PHONY: build-bench
build-bench: build $(PIPELINES)/stamp $(ETCD)
	$(CARGO) build --release --locked --bin bare-ort --bin bare-scan --bin bench-echo

.PHONY: bench-parts
bench-parts: $(ORT) ## Measure the parts alone (criterion)
	@for file in $(PARTS); do \
	  crate=$$(echo $$file | cut -d/ -f2); name=$$(basename $$file .rs); \
	  $(CARGO) bench --locked -p $$crate --bench $$name -- $(if $(QUICK),--quick,--warm-up-time 1 --measurement-time 2) || exit 1; \
	done

.PHONY: bench
bench: bench-parts build-bench ## Measure the fleet beside its floors and its peers: target/bench/report.md
	$(BENCH)/compare.py $(if $(QUICK),--rounds 3 --seconds 0.5,) $(ARGS)

.PHONY: bench-quick
bench-quick: ## The same in the small
	$(MAKE) bench QUICK=1

.PHONY: bench-overload
bench-overload: build-bench ## Ask a fleet for 2 and 5 times what it can do: target/bench/overload.md
	$(BENCH)/stress.py overload $(if $(QUICK),--seconds 10,) $(ARGS)

.PHONY: bench-swap
bench-swap: build-bench ## Swap versions at 70 % load: target/bench/swap.md
	$(BENCH)/stress.py swap $(if $(QUICK),--seconds 10,) $(ARGS)

.PHONY: bench-telemetry
bench-telemetry: build-bench $(TEST_TOOLS)/stamp ## Measure what metrics and traces cost: target/bench/telemetry.md
	$(BENCH)/telemetry.py $(if $(QUICK),--rounds 3 --seconds 0.5,) $(ARGS)

.PHONY: bench-gpu
bench-gpu: build-bench $(ORT_GPU) ## Measure a worker on an NVIDIA GPU, and 20 swaps on it: target/bench/gpu.md
	ORT_DYLIB_PATH=$(abspath $(ORT_GPU)) $(BENCH)/gpu.py --golden $(DEMO) $(ARGS)

.PHONY: bench-quantized
bench-quantized: build-bench $(if $(DATA),,$(SHOP)) ## Measure what quantizing costs and gains (DATA=folder: on your data): target/bench/quantized.md
	$(BENCH)/quantized.py --data $(LEARNT_FROM) $(if $(QUICK),--rounds 3 --seconds 0.5,) $(ARGS)

.PHONY: bench-scale
bench-scale: build-bench $(SHOP) ## Measure what shards and items cost, with the fitted lines: target/bench/scale.md
	$(PIPELINES)/bin/python -m endcap_pipelines.bundle --data $(TOOLS)/shop --out $(TOOLS)/shop-source
	$(BENCH)/scale.py $(if $(QUICK),--shards 1 4 16 --items 10000 100000 --seconds 1 --rounds 1,) $(ARGS)

.PHONY: fmt
fmt: $(TEST_TOOLS)/stamp ## Format the code
	$(CARGO) fmt --all
	$(TEST_TOOLS)/bin/ruff format deploy tests

.PHONY: lint
lint: $(TEST_TOOLS)/stamp $(PIPELINES)/stamp ## Check format, lints, types, protos and documentation
	$(TEST_TOOLS)/bin/buf lint proto
	$(TEST_TOOLS)/bin/ruff check deploy tests
	$(TEST_TOOLS)/bin/ruff format --check deploy tests
	@# With the light packages' types; the frameworks need not be there.
	$(TEST_TOOLS)/bin/mypy --config-file deploy/pipelines/pyproject.toml --cache-dir $(TOOLS)/mypy \
	  --python-executable $(PIPELINES)/bin/python deploy/pipelines/endcap_pipelines
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

.PHONY: check
check: lint test ## Everything that is asked of a change

.PHONY: clean
clean: ## Remove everything that was built or fetched
	$(CARGO) clean
	rm -rf $(TOOLS) bundles .endcap
