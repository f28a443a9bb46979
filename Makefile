# Each target creates .venv by itself. You need Python 3.11 or newer, and make.
PYTHON ?= python3
# Options of pip, such as --extra-index-url for smaller builds of PyTorch.
PIP_ARGS ?=
BIN := .venv/bin
# Two of the groups of tests run at a time, on two cores; the next begins when one ends.
NETWORK_TESTS := tests/parity tests/train tests/models
EXPORT_TESTS := tests/export tests/artifacts tests/test_model.py
# Damaged files for native libraries: a crash must not end the other tests.
ATTACK_TESTS := tests/test_attack.py
GROUPS_OF_TESTS := test-others test-networks test-exports test-attacks
# Which tests: `make test-slow` runs those that `make test` leaves out.
SELECT = not slow
.DEFAULT_GOAL := help

.PHONY: help quickstart test test-slow $(GROUPS_OF_TESTS) lint docs floors clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

quickstart: .venv/ready  ## match, fine-tune and export on synthetic people
	$(BIN)/python -m bot_deploy.demos.quickstart

test: .venv/ready  ## the test suite
	$(MAKE) --jobs 2 --keep-going $(GROUPS_OF_TESTS)

test-slow: .venv/ready  ## the tests that `make test` leaves out: long runs, and kills at random moments
	$(MAKE) --jobs 2 --keep-going SELECT=slow $(GROUPS_OF_TESTS)

test-networks:
	$(BIN)/python -m pytest -m '$(SELECT)' $(NETWORK_TESTS)

test-exports:
	$(BIN)/python -m pytest -m '$(SELECT)' $(EXPORT_TESTS)

test-attacks:
	$(BIN)/python -m pytest -m '$(SELECT)' $(ATTACK_TESTS)

test-others:
	$(BIN)/python -m pytest -m '$(SELECT)' $(addprefix --ignore=,$(NETWORK_TESTS) $(EXPORT_TESTS) $(ATTACK_TESTS))

lint: .venv/ready docs  ## style, types, import rules and the build of the documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p bot_deploy
	$(BIN)/lint-imports --no-logo

docs: .venv/ready  ## the documentation as web pages, in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

floors:  ## the tests of the runtime, the trainer and the exporter with the lowest declared versions, in build/floors
	$(PYTHON) -m venv --clear build/floors
	build/floors/bin/python -m pip install --quiet uv
	build/floors/bin/uv pip compile --quiet --resolution lowest-direct pyproject.toml --output-file build/floors/floors.txt \
		--extra cpu --extra train --extra export --extra demo --extra parquet --extra openvino --extra scale --extra models --extra timm
	build/floors/bin/uv pip install --quiet --python build/floors/bin/python -r build/floors/floors.txt pytest hypothesis
	build/floors/bin/uv pip install --quiet --python build/floors/bin/python --no-deps --editable .
	build/floors/bin/python -m pytest -m "not slow" tests/artifacts tests/backends tests/gallery tests/matching \
		tests/commands tests/video tests/demos tests/models tests/parity tests/export tests/train tests/test_images.py \
		tests/test_embedder.py tests/test_without_torch.py

clean:  ## removes .venv and what was built; keeps runs/
	rm -rf .venv build dist *.egg-info

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "bot_deploy needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable '.[cpu,train,export,dev]'
	@# Without a desktop's libraries OpenCV cannot be imported; its headless build can.
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { $(BIN)/python -m pip uninstall --quiet --yes opencv-python && \
		$(BIN)/python -m pip install --quiet $(PIP_ARGS) 'opencv-python-headless<5'; }
	touch .venv/ready
