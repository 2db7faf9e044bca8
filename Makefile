# make demo   environment, then ingest, train, evaluate on the synthetic world; prints the result table
# make test   environment, then the tests that take seconds; make test-all the slow ones too,
#             and names those that were skipped, and why
# make lint   environment, then rules, format and types of the code
# make docs   environment, then the pages and the API as a site, in site/; warnings are errors
# make accelerator         on a GPU, with the PYTHON whose jax sees it: all that is measured there, in LIMIT seconds;
#                          all output is in the folder OUT, complete after each part
# make accelerator-rival   the same for the comparison with PyTorch (needs torch)
PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= configs/paper.py
SIZE ?= paper
OUT ?= benchmarks/accelerator
LIMIT ?= 400
FLAGS ?= --model.compute-dtype bfloat16

# Set in many images, and then each process that a test starts compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all docs accelerator accelerator-rival lint clean

demo: .venv/installed
	$(BIN)/python -m pinnerformer_jax.synthetic --out data/demo/raw
	$(BIN)/python -m pinnerformer_jax.ingest --config configs/demo.py
	$(BIN)/python train.py --config configs/demo.py --workdir runs/demo
	$(BIN)/python evaluate.py --workdir runs/demo

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile -rs

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

accelerator:
	$(PYTHON) -m pinnerformer_jax.bench accelerator --config $(CONFIG) --folder $(OUT) --limit $(LIMIT) $(FLAGS)

accelerator-rival:
	$(PYTHON) -m benchmarks.torch_rival --size $(SIZE) --limit $(LIMIT) --folder $(OUT) \
		--together --setup 150 --seconds 20 --only ours 'torch eager' 'torch compiled'

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python .venv

clean:
	rm -rf .venv data/demo runs/demo site

# Made anew when what it is made of changes.
.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@
