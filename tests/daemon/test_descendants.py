"""Who has started whom and how it has ended, as a template finds out."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from waiting import wait_until

from dora.daemon.template.children import crash_of, descendants

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and there are no templates elsewhere"),
]

# Its first thread ends, so the process shows itself as a zombie, although another one goes on.
GOES_ON = """
import ctypes, os, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
number_of_exit = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
ctypes.CDLL(None).syscall(number_of_exit, 0)
"""


def test_a_process_whose_first_thread_has_ended_is_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", GOES_ON]) as process:
        try:

            def is_zombie() -> bool:
                with open(f"/proc/{process.pid}/stat") as file:
                    return file.read().rpartition(")")[2].split()[0] == "Z"

            wait_until(is_zombie, "the end of the first thread")
            assert process.pid in descendants(os.getpid())
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("end", "crash"),
    [
        ("os._exit(0)", "exit status 0"),
        ("os._exit(9)", "exit status 9"),
        ("os._exit(15)", "exit status 15"),
        ("os.kill(os.getpid(), signal.SIGABRT)", "SIGABRT"),
        ("os.kill(os.getpid(), 37)", "signal 37"),
        ("os.kill(os.getpid(), signal.SIGTERM)", ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", ""),
    ],
)
def test_a_child_that_nobody_has_killed_has_crashed(end: str, crash: str) -> None:
    with subprocess.Popen([sys.executable, "-c", f"import os, signal; {end}"]) as process:
        assert crash_of(process.pid) == crash
        assert process.wait() != 0 or crash == "exit status 0"  # it had not been reaped
