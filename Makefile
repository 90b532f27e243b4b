# Two commands: `make demo` (install, train, evaluate, report) and `make test`. Needs Python 3.11+ and nothing else;
# another interpreter is chosen with `make demo PYTHON=python3.12`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR := demo

.PHONY: .usage demo test peers
.DEFAULT_GOAL := .usage

.usage:
	@echo "make demo    install, train on moving digits for about ten minutes, write $(WORKDIR)/report.html"
	@echo "make test    install, check style and types, run the tests"
	@echo "make peers   install PyTorch networks (2.3 GB) that make test then compares with"

demo: $(VENV)/.installed
	$(BIN)/python train.py --config=configs/sync_mnist.py:demo --workdir=$(WORKDIR)
	$(BIN)/python -m rstg_jax.evaluate --workdir=$(WORKDIR)
	$(BIN)/python -m rstg_jax.report --workdir=$(WORKDIR)
	@echo "Open $(CURDIR)/$(WORKDIR)/report.html in a browser."

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

# Networks that others wrote in PyTorch; with them `make test` runs the comparisons that it skips otherwise.
peers: $(VENV)/.installed-torch

# The stamps are newer than what they were made from, so a second run installs nothing.
$(VENV)/.installed: $(VENV)/.created requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-torch: $(VENV)/.installed-dev requirements-torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt
	@touch $@

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "error: no $(PYTHON) on this machine: install Python 3.11 or newer, or name one: make ... PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$("$(PYTHON)" --version 2>&1) is too old, 3.11 or newer is needed: make ... PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) lacks the venv module (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Installing into $(VENV) (about 1.4 GB, a few minutes the first time)"
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@
