import asyncio
import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing import resource_tracker

from facts import record


class Mine:
    """A class of the program, which its children unpickle."""

    def __init__(self, value: int) -> None:
        self.value = value


def describe(mine: Mine) -> list[object]:
    main = sys.modules["__main__"]
    return [
        mine.value, type(mine).__module__, __name__, main.__name__, getattr(main, "__file__", "none"),
        sys.argv, sys.path, repr(sys.flags), os.getpgid(0) == os.getpgid(os.getppid()) or os.getpgid(0),
        multiprocessing.current_process().name, sys.stdout.isatty(),
        os.getppid() == multiprocessing.parent_process().pid if multiprocessing.parent_process() else None,
    ]  # fmt: skip


def answer(queue: multiprocessing.Queue) -> None:
    queue.put(describe(Mine(5)))


def fail() -> None:
    raise ValueError("in a child")


async def ask() -> str:
    process = await asyncio.create_subprocess_exec("echo", "hello", stdout=asyncio.subprocess.PIPE)
    text, _ = await process.communicate()
    return f"{text!r} {process.returncode} {await asyncio.to_thread(lambda: 3)}"


if __name__ == "__main__":
    record("keys of two contexts", len(multiprocessing.current_process().authkey))
    record("default", multiprocessing.get_context().get_start_method())
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=answer, args=(queue,))
        child.start()
        found = queue.get(timeout=60)
        record(
            f"{method}", [item if not isinstance(item, int) or item < 100 else "group" for item in found]
        )
        child.join()
        record(f"{method}: exit code", child.exitcode)
    failing = multiprocessing.get_context("fork").Process(target=fail, name="failing")
    failing.start()
    failing.join()
    record("a failing child", failing.exitcode)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        record("pool", [item[0] for item in pool.map(describe, [Mine(1), Mine(2)])])
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        record("executor", executor.submit(describe, Mine(3)).result()[0])
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        record("threads", list(executor.map(lambda number: number * 2, range(4))))
    record("asyncio", asyncio.run(ask()))
    shell = "import sys; print(sys.argv, sys.flags, sys.path)"
    record(
        "python",
        subprocess.run([sys.executable, "-c", shell], capture_output=True, text=True, check=True).stdout,
    )
    script = "ls -1 /proc/self/fd; ps -o ppid= -p $$ >/dev/null; ulimit -n; umask"
    record("shell", subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout)
    block = (
        multiprocessing.shared_memory.SharedMemory(create=True, size=10)
        if hasattr(multiprocessing, "shared_memory")
        else None
    )
    if block is not None:
        block.unlink()
    spawned = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], os.environ)
    record("posix_spawn", os.waitstatus_to_exitcode(os.waitpid(spawned, 0)[1]))
    forked = os.fork()
    if forked == 0:
        record("forked", [os.getpgid(0) == os.getppid(), __name__])
        print("printed by a forked child", flush=True)
        # Python 3.13 may wait at the end for its resource tracker, which is a child of the parent alone.
        resource_tracker._resource_tracker._fd = None
        sys.exit(5)
    record("exit code of the forked child", os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))
    print("now it becomes a daemon", flush=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            limit = time.monotonic() + 60
            while os.getppid() == 1 and time.monotonic() < limit:
                break
            record("daemon", [os.getsid(0) != os.getpid(), os.getcwd()])
            os._exit(0)
        os._exit(0)
    os.wait()
