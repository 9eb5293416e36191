# `make demo` and `make test` are the two commands to know. Each installs what it needs into .venv,
# once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test coverage quick libraries places bench chaos oldest docs notebooks screenshots clean

demo: .venv/demo
	@echo "Running the quickstart notebook in a kernel."
	@$(BIN)/python notebooks/demo.py

# Three processes for two cores, because tests also wait: for servers, kernels and browsers.
test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 3 --dist worksteal
	@$(MAKE) --no-print-directory libraries

# Tests other libraries in their newest versions. LlamaIndex has a separate environment, because it
# needs another version of openai.
LIBRARIES = -m pytest -p no:cacheprovider --disable-warnings
libraries: .venv-libraries/test .venv-llama-index/test
	.venv-libraries/bin/python $(LIBRARIES) tests/libraries --ignore tests/libraries/test_llama_index.py
	.venv-llama-index/bin/python $(LIBRARIES) tests/libraries/test_llama_index.py tests/libraries/test_page.py

# JupyterHub, voila and VS Code. Not part of `make test`, which must finish within 15 minutes.
PLACES = jupyterhub voila vscode
places: .venv-places/test .code-server/test
	.venv-places/bin/python -m pytest -p no:cacheprovider \
		$(PLACES:%=tests/places/test_%.py)

# Not part of `make test`, which must finish within 15 minutes; coverage makes it a tenth slower.
coverage: .venv/test
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report= \
		tests/engine tests/adapters tests/provider tests/sandbox tests/bulk
	$(BIN)/coverage report

# Without the slow tests: killed processes, random interleavings, a Redis server.
quick: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/engine tests/adapters \
		--ignore tests/engine/test_kills.py --ignore tests/engine/test_interleavings.py \
		--ignore tests/engine/test_redis.py

bench: .venv/test
	$(BIN)/python tests/bench/overhead.py
	$(BIN)/python tests/bench/quota.py
	$(BIN)/python tests/bench/completion.py
	$(BIN)/python tests/bench/face.py
	$(BIN)/python tests/bench/bulk.py
	$(BIN)/python tests/bench/promptness.py
	$(BIN)/python tests/bench/openai_client.py

# A quarter of all calls fail; then it runs at full speed for SOAK minutes.
SOAK ?= 30
chaos: .venv/test
	$(BIN)/python tests/chaos/chaos.py --soak-minutes $(SOAK)

# These tests pass with the lowest versions that pyproject.toml allows.
oldest: .venv-oldest/test
	@echo "with $$($(PYTHON) -c '$(OLDEST)')"
	.venv-oldest/bin/python -m pytest -n 2 tests/adapters tests/provider tests/openai_api \
		tests/chaos

# Builds the site. Open build/site/index.html; it needs no server.
docs: .venv/docs
	$(BIN)/python docs/site.py

# Runs the notebooks again and saves their outputs. They change only if the code has changed.
notebooks: .venv/test
	$(BIN)/python notebooks/write_outputs.py

screenshots: .venv/test
	$(BIN)/python tests/browser/screenshots.py
	$(BIN)/python tests/browser/moving_picture.py

# pip takes minutes the first time, so print a dot for each package that it collects.
# A pipe hides the exit status of pip, so the stamp is made in the pipe and checked afterwards.
define install
	@echo "Installing '.[$(1)]' into .venv. The first time, this takes one to three minutes."
	@($(BIN)/python -m pip install --disable-pip-version-check -e '.[$(1)]' && touch $@) | \
	while read -r line; do case "$$line" in \
		Collecting*|Downloading*) printf .;; \
		'Installing collected'*) printf '\nUnpacking the packages ...';; \
	esac; done; echo
	@test $@ -nt pyproject.toml
endef

.venv/bin/python:
	@echo "Creating .venv with $(PYTHON)."
	@$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml
	$(call install,demo)

.venv/docs: .venv/bin/python pyproject.toml
	$(call install,docs)

.venv/test: .venv/bin/python pyproject.toml
	$(call install,test)
	@touch .venv/demo .venv/docs

OLDEST = import re, tomllib; \
	needs = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	print(*(re.sub(">=", "==", need) for need in needs))
.venv-oldest/test: pyproject.toml
	@echo "Installing the oldest versions into .venv-oldest. This takes a few minutes."
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' \
		$$($(PYTHON) -c '$(OLDEST)')
	@touch $@

# uv resolves the versions in seconds. pip needs minutes, and before version 24 more than half an
# hour, so if uv cannot be used, the newest pip is.
define install_libraries
	@echo "Installing '.[$(1)]' into $(@D). The first time, this takes about a minute."
	@$(PYTHON) -m venv --clear $(@D)
	@packages="-e .[$(1),sandbox,server] hypothesis pytest pytest-timeout"; \
	pip="$(@D)/bin/python -m pip --quiet --disable-pip-version-check install"; \
	{ $$pip uv && $(@D)/bin/uv pip install --quiet --python $(@D)/bin/python $$packages; } || { \
		echo "uv failed, so pip installs the packages. This takes some minutes."; \
		$$pip --upgrade pip && $$pip $$packages; }
	@touch $@
endef

.venv-libraries/test: pyproject.toml
	$(call install_libraries,libraries)

.venv-llama-index/test: pyproject.toml
	$(call install_libraries,llama-index)

.venv-places/test: pyproject.toml
	$(call install_libraries,places)

# VS Code for a browser, from npm, with the Node.js that it needs. Of its modules in C++, only those
# without which it does not start are compiled.
NODE = node-$(shell uname -s | tr A-Z a-z)-$(shell uname -m | sed 's/x86_64/x64/;s/aarch64/arm64/')
SERVER = .code-server/node_modules/code-server
NPM = npm --silent --ignore-scripts
.code-server/test:
	@echo "Installing code-server into .code-server. This takes about a minute and 800 MB."
	@mkdir -p .code-server && cd .code-server && echo '{}' >package.json && \
		$(NPM) install $(NODE)@24 code-server@4.139 && ln -sfn $(NODE) node_modules/node
	@node="$$PWD/.code-server/node_modules/node"; export npm_config_nodedir="$$node"; \
	export PATH="$$node/bin:$$PATH"; cd $(SERVER) && npm --silent rebuild argon2 && \
	cd lib/vscode && $(NPM) install --omit=dev && $(NPM) install --omit=dev --prefix extensions && \
	npm --silent rebuild @parcel/watcher @vscode/native-watchdog @vscode/spdlog @vscode/sqlite3 node-pty
	@touch $@

clean:
	rm -rf .venv .venv-oldest .venv-libraries .venv-llama-index .venv-places .code-server build dist
