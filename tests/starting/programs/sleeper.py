"""Sleeps, like its two children, of which one is in a session of its own."""

import os
import sys
import time

from facts import record

for own_session in (False, True):
    if os.fork() == 0:
        if own_session:
            os.setsid()
        os.write(1, b"up\n")
        time.sleep(1000)
        os._exit(0)
record("arguments", sys.argv)
os.write(1, b"up\n")
time.sleep(1000)
