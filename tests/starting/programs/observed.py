"""Waits until the test has looked at this process from outside."""

import os
import sys
import threading
import time

from facts import record

with open(os.environ["FACTS"] + ".part", "w") as file:
    file.write(f"{os.getpid()}\n")
os.rename(file.name, os.environ["FACTS"] + ".pid")  # now it is closed: the test looks at open files
limit = time.monotonic() + 120
while not os.path.exists(os.environ["FACTS"] + ".go") and time.monotonic() < limit:
    time.sleep(0.01)
record("argv", [sys.argv, sys.orig_argv, sys.path, __name__, __file__, repr(__spec__), __package__])
record("names", sorted(globals()))
record("main thread", threading.current_thread() is threading.main_thread())
