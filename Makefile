# Everything sets itself up in .venv; all it needs is Python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help quickstart test lint clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

quickstart: .venv/ready  ## synthetic people, a trained model, a verified export and a first match, in minutes
	$(BIN)/python -m bot_deploy.demos.quickstart

test: .venv/ready  ## the whole test suite
	$(BIN)/python -m pytest

lint: .venv/ready  ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@rm -rf build/typecheck
	@mkdir -p build/typecheck/bot_deploy
	@ln -s $(CURDIR)/bot_deploy/* build/typecheck/bot_deploy/
	@ln -s $(CURDIR)/train $(CURDIR)/export $(CURDIR)/demos build/typecheck/bot_deploy/
	cd build/typecheck && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p bot_deploy

clean:  ## removes .venv and what was built; keeps runs/
	rm -rf .venv build dist *.egg-info

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "bot_deploy needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[cpu,train,export,dev]'
	touch .venv/ready
