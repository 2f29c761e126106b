import asyncio
import atexit
import concurrent.futures
import logging.handlers
import os
import signal
import sys
import tempfile
import threading
import time
import weakref

from facts import record


class Loud:
    def __init__(self, name: str) -> None:
        self.name = name

    def __del__(self) -> None:
        os.write(1, f"__del__ of {self.name}\n".encode())


class Broken:
    def __del__(self) -> None:
        raise ValueError("in __del__")


def work() -> None:
    threading.main_thread().join()
    print("a thread that is no daemon ends after the main program")


def fail() -> None:
    raise ValueError("in a thread")


def leave() -> None:
    sys.exit("a thread that exits")


def first() -> None:
    print("registered first, called last", threading.active_count(), type(sys.stdout).__name__)


alarms: list[int] = []


def on_alarm(number: int, _: object) -> None:
    print("an alarm")
    alarms.append(number)


async def failing_task() -> None:
    async def child() -> None:
        raise ValueError("in a task")

    task = asyncio.create_task(child())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task


atexit.register(first)
atexit.register(fail)
atexit.register(print, "registered last, called first")
Broken()
for target in (fail, leave):
    thread = threading.Thread(target=target, name="the thread")
    thread.start()
    thread.join()
asyncio.run(failing_task())
threading.Thread(target=work).start()
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
kept = Loud("a global")
cycle = Loud("a cycle")
cycle.cycle = cycle  # type: ignore[attr-defined]
weakref.finalize(kept, print, "finalize")
handler = logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout))
logger = logging.getLogger("program")
logger.addHandler(handler)
logger.error("kept until the end")
logging.warning("of the root logger")
executor = concurrent.futures.ThreadPoolExecutor(1)
at_the_end = threading.Event()
executor.submit(at_the_end.wait, 60)
executor.submit(print, "the executor ends its work")
folder = tempfile.TemporaryDirectory()
record("folder for temporary files", os.path.dirname(folder.name))
child = os.fork()
if child == 0:
    os.execvp("true", ["true"])
os.waitpid(child, 0)
signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.001)
while not alarms:  # `signal.pause` would wait for ever if the alarm came before it
    time.sleep(0.001)
print("the last line of the program")
at_the_end.set()
