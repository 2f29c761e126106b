"""What holds for all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# A shell that starts a command in the background lets it ignore SIGINT, and so would the programs under
# test, which are to be ended by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run, however slow the machine is at the moment.
settings.register_profile("dora", deadline=None, derandomize=True)
settings.load_profile("dora")
