"""What holds for all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings
from ports import free_port

# A shell that starts a command in the background lets it ignore SIGINT, and so would the programs under
# test, which are to be ended by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run, however slow the machine is at the moment.
settings.register_profile("dora", deadline=None, derandomize=True)
settings.load_profile("dora")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start processes, for a file goes to one worker as a whole: short ones are
    left for the end, when one worker after the other has nothing to do."""
    processes = Counter(item.path for item in items if item.get_closest_marker("processes"))
    items.sort(key=lambda item: -processes[item.path])


@pytest.fixture(scope="session", autouse=True)
def places_of_its_own() -> Iterator[None]:
    """Keep what tests start without saying where away from the user's dataflows and from other processes
    of the suite: commands that look for "the" running dataflow would find theirs."""
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's own is too long for sockets
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DORA_RUNTIME_DIR", f"{root}/run")
        patch.setenv("DORA_DATA_DIR", f"{root}/data")
        patch.setenv("XDG_CONFIG_HOME", f"{root}/config")
        patch.setenv("DORA_COORDINATOR_PORT", str(free_port()))
        yield
    deadline = time.monotonic() + 60
    try:
        while os.path.exists(f"{root}/run") and not set(os.listdir(f"{root}/run")) <= {"lock"}:
            # Of a run that was killed, its guardian removes it.
            assert time.monotonic() < deadline, "a run left its directory"
            time.sleep(0.01)
    finally:
        shutil.rmtree(root, ignore_errors=True)
