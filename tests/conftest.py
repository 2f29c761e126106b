"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell that starts a command in the background lets it ignore SIGINT, and so would the programs under
# test, which are to be ended by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
