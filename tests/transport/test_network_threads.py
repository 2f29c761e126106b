"""What happens to threads that are in Zenoh when a program ends."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

pytestmark = pytest.mark.processes


def test_a_thread_that_zenoh_keeps_longer_than_the_program_does_not_abort_it() -> None:
    """The interpreter finalizes for a second, and a question that nobody answers ends in the middle."""
    program = """
        import time
        import zenoh
        from dora.transport.network.threads import start_thread
        from dora.transport.network.zenoh_router import make_config

        class SlowEnd:
            def __del__(self, sleep=time.sleep):
                sleep(1)

        session = zenoh.open(make_config(mode="peer", listen__endpoints=[]))
        silent = session.declare_queryable("question", zenoh.handlers.FifoChannel(1))
        replies = session.get("question", zenoh.handlers.FifoChannel(1), timeout=0.3)
        start_thread("ask", lambda: print(next(replies).err.payload.to_string(), flush=True))
        time.slow_end = SlowEnd()
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Timeout\n", "")
