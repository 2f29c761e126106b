"""What holds for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from ports import free_port
from shared_template import end_template, left_by_runs, remember_environment, share_template

if TYPE_CHECKING:
    from system import System

# A shell that starts a command in the background lets it ignore SIGINT, and `nohup` SIGHUP. So would the
# programs under test, which are to be ended by them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Each process under test loads a hundred modules. To compile them takes 0.4 s of processor time, so the
# bytecode is kept, though images of containers often forbid it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The same examples in each run, however slow the machine is at the moment.
settings.register_profile("dora", deadline=None, derandomize=True)
settings.load_profile("dora")


# The audit events by which CPython reports that a process is about to start.
STARTS = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "subprocess.Popen",
}


# How many times longer than others a test with processes takes, by its folder: it starts daemons.
COSTS = {"cluster": 4, "coordinator": 2, "machines": 4}


class ProcessGuard:
    """Fails each test that starts a process without the mark `processes`.

    The start raises an error; the test fails even if the code under test catches it.
    """

    def __init__(self) -> None:
        self._active = False
        self._starts: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._active and event in STARTS:
            start = f"{event} {arguments[1] if event == 'subprocess.Popen' else arguments[:2]}"
            self._starts.append(start)
            raise AssertionError(f"a test without the mark `processes` starts a process: {start}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._active = item.get_closest_marker("processes") is None
        try:
            return (yield)
        finally:
            self._active = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        starts, self._starts = self._starts, []
        if starts and report.outcome != "failed":
            report.outcome = "failed"
            report.longrepr = (
                f"This test starts a process ({'; '.join(starts)}), but it does not have the mark "
                "`processes`, so `make test-fast` runs it."
            )
        return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help="run only the tests without the marks `processes` and `lengthy`",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ProcessGuard())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, for a file goes to one worker as a whole: short ones are left
    for the end, when one worker after the other has nothing to do."""
    processes = Counter(item.path for item in items if item.get_closest_marker("processes"))
    items.sort(key=lambda item: -processes[item.path] * COSTS.get(item.path.parent.name, 1))
    if not sys.platform.startswith("linux"):
        for item in items:
            if item.get_closest_marker("stress"):
                item.add_marker(pytest.mark.skip(reason="it looks into /proc and /dev/shm"))
    if config.getoption("--fast"):
        left_out = [item for item in items if not is_fast(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if is_fast(item)]


def is_fast(item: pytest.Item) -> bool:
    return not any(item.get_closest_marker(mark) for mark in ("processes", "lengthy"))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking at thousands of tests again and again."""
    gc.collect()
    gc.freeze()


def what_is_left(root: str) -> dict[str, list[str]]:
    """Return the folders that runs have left, with their times and files, which say what run it was."""
    return {
        f"{name} {time.ctime(os.stat(f'{root}/{name}').st_mtime)}": os.listdir(f"{root}/{name}")
        for name in left_by_runs(root)
    }


@pytest.fixture(scope="session", autouse=True)
def places_of_its_own() -> Iterator[str]:
    """Keep what tests start without saying where away from the user's dataflows and from other processes
    of the suite: commands that look for "the" running dataflow would find theirs."""
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's own is too long for sockets
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DORA_RUNTIME_DIR", f"{root}/run")
        patch.setenv("DORA_DATA_DIR", f"{root}/data")
        patch.setenv("DORA_BLACK_BOX", "off")  # its tests have it on; with it, a failure takes longer
        patch.setenv("XDG_CONFIG_HOME", f"{root}/config")
        patch.setenv("DORA_COORDINATOR_PORT", str(free_port()))
        remember_environment()
        yield f"{root}/run"
    deadline = time.monotonic() + 60
    try:
        while os.path.exists(f"{root}/run") and left_by_runs(f"{root}/run"):
            # Of a run that was killed, its guardian removes it.
            assert time.monotonic() < deadline, f"runs left {what_is_left(f'{root}/run')}"
            time.sleep(0.01)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        end_template()


@pytest.fixture(autouse=True)
def shared_template(places_of_its_own: str, request: pytest.FixtureRequest) -> None:
    """Have dataflows that are started without saying where fork their nodes from the shared template."""
    if request.node.get_closest_marker("processes") is not None and not os.path.exists(places_of_its_own):
        share_template(places_of_its_own)


@pytest.fixture
def runtime_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a directory for the runs of this test; pytest's own has a path too long for sockets."""
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")
    monkeypatch.setenv("DORA_RUNTIME_DIR", root)
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system of 512 KiB; what else needs room has it elsewhere."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """Return a coordinator's port and folders of this test's own; what runs there ends with the test."""
    from system import own_system  # only some tests need what it imports

    with own_system(tmp_path, monkeypatch) as system:
        yield system


@pytest.fixture(params=["iceoryx2", "shm"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each engine."""
    name: str = request.param
    if name != "shm":
        pytest.importorskip(name)
    monkeypatch.setenv("DORA_ENGINE", name)
    return name


_figures: list[str] = []


@pytest.fixture
def figure() -> Callable[[str], None]:
    """Return a function that takes a line worth publishing; all lines are shown at the end."""
    return _figures.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("figures")
        for line in _figures:
            terminalreporter.write_line(line)
