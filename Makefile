# Two commands: `make demo` shows what it does, `make test` proves it. Everything lands in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
ROS := .venv-ros2

.PHONY: demo test test-fast test-slow test-lowest coverage coverage-all lint docs generated changelog release bench compatibility stress fuzz packages smoke rerun ros2 arm64 clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make demo    set up .venv and run the main example (examples/object-detection)"
	@echo "make test    set up .venv and run the tests: less than ten minutes on two processors"
	@echo "make test-fast  run those that start no process and take less than 0.15 s each"
	@echo "make test-slow  run those that take more than three seconds each, which make test leaves out"
	@echo "make test-lowest  run the tests with the lowest versions of packages that pyproject.toml allows"
	@echo "make lint    check style and types"
	@echo "make docs    build the documentation site in site/"
	@echo "make generated  write what is made of declarations: the lists of commands, options and counters, the JSON schema"
	@echo "make coverage  run the tests that start no process and measure what they cover; make coverage-all: all tests"
	@echo "make changelog VERSION=1.2.3  move the fragments of changelog.d/ into CHANGELOG.md"
	@echo "make release REPOSITORY=https://...  build, check and try a release; UPLOAD=--upload publishes it"
	@echo "make bench   measure, against dora-rs in a venv of its own, and rclpy where DORA_ROS2_VENV names one"
	@echo "make compatibility  compare the behaviour with dora-rs, in a venv of its own (an hour)"
	@echo "make rerun   test the viewer with Rerun (500 MB)"
	@echo "make ros2    test with a real ROS 2 from PyPI, in a venv of its own (330 MB)"
	@echo "make arm64   run a dataflow and the fast tests on Debian for arm64, emulated (as root; 1.5 GB, an hour)"
	@echo "make stress  kill, stop, fill, cut and soak everything for up to an hour; ROUNDS=10 for less"
	@echo "make fuzz    search for faults of all decoders, and of the coordinator's API with schemathesis"
	@echo "make packages  install published node packages from PyPI and run them"
	@echo "make smoke   run stress, fuzz and packages in small: about eleven minutes"
	@echo "make clean   remove .venv and everything that was generated"
	@echo "PYTHON=...   the interpreter to make .venv with (3.11 or newer); VENV=... another folder than .venv"
	@echo "ARGS=...     options of pytest for test, test-fast, test-slow, test-lowest and arm64: ARGS=\"tests/wire -k name\""

# With a display, the page of the running dataflow opens in the browser.
DISPLAYED := $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname))
demo: $(VENV)/.examples
	@$(BIN)/dora demo examples/object-detection $(if $(DISPLAYED),--open)

# Most of the time tests wait for processes, so four at a time fill two cores. Each has folders, ports and
# shared memory of its own; those of one file stay in a row, they may share a fixture. tests/conftest.py says
# which files come first.
AT_ONCE := -n 4 --dist loadfile --no-loadscope-reorder
test: $(VENV)/.dev
	$(BIN)/python -m pytest $(AT_ONCE) $(ARGS)

# The marks of tests that have targets of their own: they take many minutes, or need other packages.
OTHER_TARGETS := stress or fuzz or packages or ros2
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(AT_ONCE) -m "slow and not ($(OTHER_TARGETS))" $(ARGS)

# For targets that run the tests of `test` and of `test-slow`.
FAST_AND_SLOW := -m "not ($(OTHER_TARGETS))"

# A test that starts a process without the mark `processes` fails here: tests/conftest.py.
test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest --fast -n logical --dist worksteal $(ARGS)

# With Python 3.11: NumPy 1.24 and others have no wheels for later ones.
test-lowest: $(LOWEST)/.lowest
	$(LOWEST)/bin/python -m pytest $(AT_ONCE) $(FAST_AND_SLOW) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# The floors are in pyproject.toml. Processes that tests start are measured too.
coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not (processes or slow or $(OTHER_TARGETS))" -n logical --dist worksteal --cov --cov-report=term --cov-report=html

coverage-all: $(VENV)/.dev
	$(BIN)/python -m pytest $(AT_ONCE) $(FAST_AND_SLOW) --cov --cov-report=term --cov-report=html

docs: $(VENV)/.dev
	$(BIN)/python tools/site/build.py

generated: $(VENV)/.dev
	$(BIN)/python tools/write_commands.py
	$(BIN)/python tools/write_run_options.py
	$(BIN)/python tools/write_counters.py
	$(BIN)/python -m dora.dataflow.json_schema

changelog: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check "towncrier>=25,<27"
	$(BIN)/towncrier build --version $(VERSION)

# make release REPOSITORY=https://github.com/OWNER/dora [UPLOAD=--upload]
release: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check "build>=1.2,<2" "twine>=6,<7"
	$(BIN)/python tools/release.py "$(REPOSITORY)" $(UPLOAD)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

compatibility: $(VENV)/.dev
	$(BIN)/python -m benchmarks.compatibility --files examples --files tests/dataflow

# How much the long tests do. They read it in tests/rounds.py.
ROUNDS := 100
LONG_TEST := DORA_TEST_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest

stress: $(VENV)/.dev
	$(LONG_TEST) tests/stress tests/coordinator tests/machines tests/transport -m stress

rerun: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[rerun]'
	$(BIN)/python -m pytest tests/viewer tests/examples -k "viewer or rerun"

# A real ROS 2, without an installation: ROS's own wheels. They change each start of Python, so never beside dora.
ROS_PACKAGES := 'ros-rclpy[fastrtps]' ros-kilted-std-msgs ros-kilted-sensor-msgs ros-kilted-std-srvs \
	ros-kilted-geometry-msgs ros-kilted-rcl-interfaces ros-kilted-test-msgs
# PyPI has no example_interfaces: these build it, with a C++ compiler.
ROS_BUILD := ros-kilted-ament-cmake ros-kilted-ament-cmake-include-directories ros-kilted-ament-cmake-ros-core \
	ros-kilted-ament-package ros-kilted-rosidl-default-generators ros-kilted-rosidl-core-generators \
	catkin-pkg cmake ninja
ROS_EXAMPLES := tests/ros2/example_interfaces
ros2: $(VENV)/.dev $(ROS)/.ros2
	DORA_ROS2_VENV=$(ROS) $(BIN)/python -m pytest tests/ros2 tests/benchmarks -m ros2 $(ARGS)

$(ROS)/.ros2: Makefile $(wildcard $(ROS_EXAMPLES)/* $(ROS_EXAMPLES)/*/*) | $(VENV)/.dev
	@echo "Installing ROS 2 Kilted into $(ROS)"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(ROS)
	@$(BIN)/uv pip install --quiet --python $(ROS)/bin/python $(ROS_PACKAGES) $(ROS_BUILD)
	@$(ROS)/bin/python $(ROS_EXAMPLES)/build.py
	@touch $@

fuzz: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check "schemathesis>=4.32,<5"
	@status=0; \
	$(LONG_TEST) tests/coordinator tests/recording -m fuzz || status=1; \
	$(LONG_TEST) tests/wire/test_decoders.py --timeout 3600 || status=1; \
	exit $$status

# ARGS are options of pytest, instead of all that it runs. The Debian stays for the next time.
arm64:
	@tools/arm64.sh $(ARGS)

# PACKAGES chooses among them, like -k of pytest.
packages: $(VENV)/.dev
	$(LONG_TEST) tests/packages tests/tools -m packages -k "$(PACKAGES)"

# Each long test for a moment, so that none of them rots. All of them run, and a failure is reported at the end.
smoke: $(VENV)/.dev
	@failed=""; \
	$(MAKE) stress ROUNDS=2 || failed="$$failed stress"; \
	$(MAKE) fuzz ROUNDS=2 || failed="$$failed fuzz"; \
	$(MAKE) packages PACKAGES="pyarrow_assert or every_kind_of_node" || failed="$$failed packages"; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

clean:
	rm -rf $(VENV) $(LOWEST) $(ROS) .venv-upstream .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	rm -rf out examples/*/out site htmlcov .coverage .coverage.*
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# uv is a dependency of dora. It shows one bar for all packages and takes seconds; pip has one bar for each, and
# takes minutes.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.5,<1' && \
	$(BIN)/uv pip install --python $(BIN)/python --editable

# One file for each set of packages remembers that it is installed; pyproject.toml makes it old.
$(VENV)/.examples: pyproject.toml | $(BIN)/pip
	@echo "Installing dora and the packages of its examples into $(VENV)"
	@$(INSTALL) '.[examples]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/pip
	@echo "Installing dora and the packages of its tests into $(VENV)"
	@$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.examples

# The second command takes back what only the packages of the tests ask for.
$(LOWEST)/.lowest: pyproject.toml | $(VENV)/.dev
	$(BIN)/uv venv --quiet --clear --seed --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --python $(LOWEST) --resolution lowest-direct --editable '.[dev]'
	$(BIN)/uv pip install --python $(LOWEST) --resolution lowest-direct --upgrade --editable .
	@touch $@

$(BIN)/pip:
	@command -v $(PYTHON) > /dev/null || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) tools/make_venv.py $(VENV)
