# Every target builds the environment it needs from python3 alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes that share the tests out; more than two cores, since most of the long ones wait.
JOBS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(JOBS)

# The tests start thousands of processes: each would compile the whole project without its bytecode.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test interop lint check fire audit wheel wheelhouse docs bench soak env clean

demo: $(STAMP)  ## the main job from end to end on loopback
	$(BIN)/python examples/demo/demo.py --bin $(BIN) $(DEMO_ARGS)

test: $(STAMP)  ## every test that this machine can run; what is skipped is listed with its reason
	$(PYTEST) -ra $(PYTEST_ARGS)

interop: build/interop/.installed  ## the tests with MLflow and Kubeflow Pipelines, in an environment of their own
	INTEROP=required build/interop/bin/python -m pytest -n 2 -ra tests/interop $(INTEROP_ARGS)

# On top of $(VENV): only what is not in it, or there in another version, is installed again.
build/interop/.installed: $(STAMP) .ci/interop.lock
	rm -rf build/interop
	$(PYTHON) -m venv --without-pip build/interop
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		"$$(build/interop/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/below.pth"
	build/interop/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .ci/interop.lock
	build/interop/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lint: $(STAMP)  ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint  ## before each commit: lint, and the unit tests
	FUZZ_EXAMPLES=300 $(PYTEST) -q -m "not broker and not postgres and not system and not slow"

fire: $(STAMP)  ## kill one process at an instant that nobody chose; SEED=7 again, SEEDS=100-130 others
	FIRE_SEEDS="$(or $(SEED),$(SEEDS),1-12)" $(PYTEST) -v tests/spine/test_fire.py

soak: $(STAMP)  ## the long counts of docs/reliability.md, hours; what was cut goes on from build/soak/
	KILL_POINTS=0-99999 KILL_MINUTES=60 KILL_JOURNAL=build/soak/kills.jsonl $(BIN)/python -m pytest -s tests/spine/test_kill_points.py
	MUTANT_SEEDS=0-100000 MUTANT_JOURNAL=build/soak/mutants.txt $(BIN)/python -m pytest -s tests/agent/runtime/test_mutants.py
	FLAT_SWAPS=1000 FLAT_INFERENCES=1000000 $(BIN)/python -m pytest -s tests/spine/test_flat.py
	HOSTILE_REQUESTS=50000 HOSTILE_SEED=$(or $(SEED),2) $(BIN)/python -m pytest -s --timeout=7200 tests/fleet/test_api_hostile.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/fuzz.lock
	FUZZ_MINUTES=$(or $(FUZZ_MINUTES),10) $(BIN)/python -m tests.fuzz.soak
	DRIFT_DRAWS=1000000 $(BIN)/python -m pytest -q --timeout=7200 tests/fleet/core/test_drift_tail.py
	$(BIN)/python benchmarks/drift_soak.py --windows 2000000 --journal build/soak/drift.jsonl
	$(BIN)/python -m tests.outbox.soak --journal build/soak/outbox.jsonl $(OUTBOX_ARGS)
	$(BIN)/python -m tests.storage.soak --journal build/soak/storage.jsonl $(STORAGE_ARGS)

audit: build/audit/.installed  ## known vulnerabilities in what requirements.lock and .ci/interop.lock name; needs pypi.org
	build/audit/bin/python .ci/audit.py $(AUDIT_ARGS)

build/audit/.installed: .ci/audit.lock
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/audit.lock
	@touch $@

wheel: $(STAMP)  ## the project's wheel and its bill of materials (CycloneDX), in dist/
	$(BIN)/python systemd/sbom.py

wheelhouse: $(STAMP)  ## all that a device needs to install without a network; ARCH=aarch64, PYTHON_VERSION=3.12
	$(BIN)/python systemd/wheelhouse.py --arch $(or $(ARCH),x86_64) --python $(or $(PYTHON_VERSION),3.11)

docs: $(STAMP)  ## docs/topics.md and docs/asyncapi.yaml, from what wire/ says
	$(BIN)/python docs/generate.py

bench: $(STAMP)  ## measured beside peers and floors, in about half an hour; writes docs/performance.md
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@echo "making $(VENV) with what requirements.lock names, about a minute"
	$(PYTHON) -m venv $(VENV)
	@# The lock is complete; without --no-deps pip takes a package that is asked for with an extra for unlocked.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
