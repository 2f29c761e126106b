"""Stops the controller for a second, in the middle of its work."""

import os
import signal
import time

from dora import Node

DELAY = float(os.environ.get("DELAY", "2"))


def main() -> None:
    with Node() as node:
        event = node.next()
        if event is None or event["type"] != "INPUT":
            return
        pid = event["value"][0].as_py()
        time.sleep(DELAY)
        os.kill(pid, signal.SIGSTOP)
        print("the controller is stopped")
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        print("the controller goes on")


if __name__ == "__main__":
    main()
