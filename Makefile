# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test coverage quick bench chaos oldest docs notebooks screenshots clean

demo: .venv/demo
	$(BIN)/python notebooks/demo.py

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Apart from `make test`, which keeps to a quarter of an hour: a tracer costs a tenth of its time.
coverage: .venv/test
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report= \
		tests/engine tests/adapters tests/provider tests/sandbox tests/bulk
	$(BIN)/coverage report

# Without what takes long: killed processes, drawn interleavings, a Redis server.
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

# Everything fails a quarter of the time, for SOAK minutes at full speed in the end.
SOAK ?= 30
chaos: .venv/test
	$(BIN)/python tests/chaos/chaos.py --soak-minutes $(SOAK)

# The lower bounds of pyproject.toml are what these tests pass with.
oldest: .venv-oldest/test
	@echo "with $$($(PYTHON) -c '$(OLDEST)')"
	.venv-oldest/bin/python -m pytest -n 2 tests/adapters tests/provider tests/chaos

# The site, in build/site: open index.html there, no server is needed.
docs: .venv/docs
	$(BIN)/python docs/site.py

# Runs the notebooks that are kept with outputs; nothing changes in them that did not in the code.
notebooks: .venv/test
	$(BIN)/python notebooks/write_outputs.py

screenshots: .venv/test
	$(BIN)/python tests/browser/screenshots.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	@touch $@

.venv/docs: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

.venv/test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ .venv/demo .venv/docs

OLDEST = import re, tomllib; \
	needs = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	print(*(re.sub(">=", "==", need) for need in needs))
.venv-oldest/test: pyproject.toml
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[test]' \
		$$($(PYTHON) -c '$(OLDEST)')
	@touch $@

clean:
	rm -rf .venv .venv-oldest build dist
