"""Programs that leave much to their end, run under plain Python, as nodes and as operators.

Each runs in a folder of its own. What is left behind there, and the exit status, has to be the same.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from flow import Flow
from waiting import TIMEOUT

from dora.api import run_loaded
from dora.daemon.load_dataflow import load_for_run
from dora.daemon.logs.display import Display
from dora.daemon.options import LocalRunOptions

# Under plain Python a program finds this as `dora`. Its node gets three messages, their end, and a stop.
STAND_IN = """
    import enum

    class DoraStatus(enum.Enum):
        CONTINUE = 0
        STOP = 1

    EVENTS = [{"type": "INPUT"}] * 3 + [{"type": "INPUT_CLOSED"}, {"type": "STOP"}]

    class Node:
        def __iter__(self):
            return iter(EVENTS)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def send_output(self, *_):
            pass
"""

# Runs an operator under plain Python, as a script would.
HOST = """
    import importlib
    import sys

    import dora

    sys.path.insert(0, sys.argv[1])
    operator = importlib.import_module(sys.argv[2]).Operator()

    def run():
        for event in dora.EVENTS:
            if operator.on_event(event, None) is dora.DoraStatus.STOP:
                return

    run()
"""

# Line by line in `order` what happens in a fixed order, in `finalized` what happens in any.
WITNESS = """
    import atexit
    import os
    import sys
    import weakref

    def witness(file):
        descriptor = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        def see(*words, write=os.write):  # it does its work when all modules are empty
            write(descriptor, (" ".join(words) + "\\n").encode())
        return see

    see, see_end = witness("order"), witness("finalized")

    class Witness:
        def __init__(self, name):
            self.name = name
        def __del__(self, see=see_end):
            see("end of", self.name)

    class Cycle(Witness):
        def __init__(self, name):
            super().__init__(name)
            self.me = self
            self.file = open(f"file of {name}", "w")
            self.file.write(name)

    atexit.register(see, "registered first")
    atexit.register(see, "registered last")
    watched = Witness("a global")
    called_back = weakref.ref(watched, lambda _, see=see_end: see("callback"))
    weakref.finalize(watched, see, "finalize")
    cycle = Cycle("a cycle")
"""

# What a program leaves in modules of Python, of packages, and in threads and processes.
LEFT = """
    import concurrent.futures
    import csv
    import functools
    import logging
    import logging.handlers
    import multiprocessing
    import tempfile
    import threading
    import time

    log = open("log", "w")
    log.write("a line\\n")
    writer = csv.writer(open("table.csv", "w"))
    writer.writerow([1, 2, 3])

    class Handler(logging.Handler):
        def __init__(self):
            super().__init__()
            self.file = open("own handler", "w")
        def emit(self, record):
            self.file.write(record.getMessage() + "\\n")

    logging.getLogger("program").addHandler(Handler())
    logging.getLogger("program").addHandler(logging.FileHandler("file handler"))
    memory = logging.handlers.MemoryHandler(100, target=logging.FileHandler("memory handler"))
    logging.getLogger("program").addHandler(memory)
    logging.getLogger("program").warning("a warning")
    logging.getLogger("other").addHandler(logging.StreamHandler(open("stream handler", "w")))
    logging.getLogger("other").error("an error")
    functools.left = Witness("what a module of Python refers to")
    logging.Handler.left = [open("file of a class", "w")]
    logging.Handler.left[0].write("text")

    def work():
        threading.main_thread().join()
        see("end of a thread")

    child = multiprocessing.get_context("fork").Process(target=see, args=("a child process",))
    child.start()
    child.join()
    endless = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
    endless.start()
    threading.Thread(target=work).start()
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    end_of_threads = threading.Event()
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.submit(end_of_threads.wait).add_done_callback(lambda _: see("end of the executor"))
    threading._register_atexit(end_of_threads.set)
    folder = tempfile.TemporaryDirectory(dir=".")

    def last_line():
        log.write("the last line\\n")
        see("last line")
"""

NODE = """
    from dora import Node
"""

LOOP = """
    node = Node()

    def main():
        local = Witness("a local")
        for event in node:
            if event["type"] == "INPUT":
                end()
        last_line()

    main()
"""

# How a program ends: the text of the function that it calls for each message.
ENDS = {
    "end_of_the_loop": "pass",
    "exit_3": "sys.exit(3)",
    "exit_text": "sys.exit('a text')",
    "exception": "1 / 0",
    "interrupt": "import signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
    "terminated": "import signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "terminated_with_a_handler": (
        "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); "
        "os.kill(os.getpid(), signal.SIGTERM)"
    ),
    "os_exit": "os._exit(5)",
    "no_garbage_collection": "import gc; gc.disable()",
}


class Program(NamedTuple):
    """A program. An operator's is the text of its module."""

    text: str
    is_operator: bool = False


def _text(*parts: str) -> str:
    return "\n".join(textwrap.dedent(part) for part in parts)


def _end(text: str) -> str:
    return f"def end():\n    {text}\n"


NODES = {name: Program(_text(NODE, WITNESS, LEFT, _end(end), LOOP)) for name, end in ENDS.items()}
# The framework is imported last, when the program has made most of its objects.
NODES["late_import"] = Program(_text(WITNESS, LEFT, _end("pass"), NODE, LOOP))
# With packages beside it, and nothing of the program's own.
NODES["imports_first"] = Program(
    _text(
        "import numpy as np",
        "import pyarrow as pa",
        NODE,
        WITNESS,
        LEFT,
        "np.left = Witness('what a package refers to')",
        _end("pass"),
        LOOP,
    )
)
# A function and its module are a cycle. What hangs on it was made before the framework was imported.
NODES["open_before_import"] = Program(
    _text(
        """
        log = open("log", "w")
        log.write("text")

        def function():
            pass
        """,
        NODE,
        """
        for event in Node():
            pass
        """,
    )
)
NODES["with"] = Program(
    _text(
        NODE,
        WITNESS,
        LEFT,
        """
        with Node() as node:
            for event in node:
                pass
        last_line()
        """,
    )
)
NODES["exception_in_with"] = Program(
    _text(
        NODE,
        WITNESS,
        LEFT,
        """
        def main():
            with Node() as node, open("left in with", "w") as file:
                file.write("text")
                for event in node:
                    raise ValueError(event)
        main()
        """,
    )
)
# Modules of the program's own, one of which it imports in the end only.
NODES["modules"] = Program(
    _text(
        """
        import helper
        """,
        NODE,
        """
        def main():
            for event in Node():
                helper.log.write(event["type"] + "\\n")
            import other_helper
        main()
        """,
    )
)
NODES["writers"] = Program(
    _text(
        NODE,
        """
        import sys
        import numpy as np
        import pyarrow as pa
        import pyarrow.parquet as pq
        schema = pa.schema([("x", pa.int64())])
        table = pq.ParquetWriter("table.parquet", schema)
        table.write_table(pa.table({"x": [1, 2, 3]}))
        try:
            import cv2
        except ImportError:
            print("without cv2")
        else:
            video = cv2.VideoWriter("video.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))

        def main():
            for event in Node():
                if event["type"] == "INPUT" and "cv2" in sys.modules:
                    video.write(np.full((48, 64, 3), 100, np.uint8))
        main()
        """,
    )
)

OPERATOR = """
    from dora import DoraStatus

    class Operator(Witness):
        def __init__(self):
            super().__init__("the operator")
            self.file = open("file of the operator", "w")
            self.method = self.on_event

        def on_event(self, event, send_output):
            self.file.write(event["type"] + "\\n")
            if event["type"] == "INPUT":
                return end() or DoraStatus.CONTINUE
            if event["type"] == "STOP":
                last_line()
            return DoraStatus.CONTINUE
"""
OPERATORS = {
    f"operator_{name}": Program(_text(WITNESS, LEFT, _end(end), OPERATOR), is_operator=True)
    for name, end in {**ENDS, "stop": "return DoraStatus.STOP"}.items()
    if name != "no_garbage_collection"  # it loses files of cycles under plain Python
}

HELPER = """
    log = open("log of a module", "w")

    def write(text):
        log.write(text)

    write("text")
"""


class Left(NamedTuple):
    """What a program has left: its exit status (minus the signal), and the files of its folder."""

    status: int
    files: dict[str, bytes]


def _left(folder: Path, status: int) -> Left:
    files = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix != ".py":
            lines = file.read_bytes()
            files[file.name] = b"\n".join(sorted(lines.split(b"\n"))) if file.name == "finalized" else lines
    return Left(status, files)


def _write(folder: Path, programs: dict[str, Program]) -> None:
    for name, program in programs.items():
        (folder / name).mkdir()
        text = f"import os\nos.chdir({str(folder / name)!r})\n{program.text}"
        (folder / name / f"{name}.py").write_text(text)
        if name == "modules":
            for helper in ("helper", "other_helper"):
                (folder / name / f"{helper}.py").write_text(
                    textwrap.dedent(HELPER).replace("log of a module", f"log of {helper}")
                )


def run_plainly(folder: Path, programs: dict[str, Program]) -> dict[str, Left]:
    """Run them under plain Python."""
    _write(folder, programs)
    (folder / "dora.py").write_text(textwrap.dedent(STAND_IN))
    (folder / "host.py").write_text(textwrap.dedent(HOST))
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    running = {}
    for name, program in programs.items():
        file = str(folder / name / f"{name}.py")
        command = [str(folder / "host.py"), str(folder / name), name] if program.is_operator else [file]
        running[name] = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        return {name: _left(folder / name, process.wait(TIMEOUT)) for name, process in running.items()}
    finally:
        for process in running.values():
            with suppress(ProcessLookupError):  # plain Python leaves children of a program that is killed
                os.killpg(process.pid, signal.SIGKILL)


def run_as_nodes(flow: Flow, programs: dict[str, Program]) -> dict[str, Left]:
    """Run them in one dataflow."""
    _write(flow.directory, programs)
    flow.node(
        "source",
        """
        from dora import Node
        node = Node()
        for _ in range(3):
            node.send_output("out", b"")
        """,
        outputs=["out"],
    )
    inputs = {"in": {"source": "source/out", "queue_size": 10}}
    for name, program in programs.items():
        if program.is_operator:
            operator = {"id": "op", "python": f"{name}/{name}.py", "inputs": inputs}
            flow.node(name, operators=[operator])
        else:
            flow.node(name, path=f"{name}/{name}.py", inputs=inputs)
    options = LocalRunOptions(preload=flow.preload)
    dataflow = load_for_run(flow.write(), options)
    stream = io.StringIO()
    result = run_loaded(dataflow, options, Display(), stream=stream, on_log=flow.entries.append).result
    statuses = {failure.node_id: _status(failure.exit_code, failure.signal) for failure in result.failures}
    return {name: _left(flow.directory / name, statuses.get(name, 0)) for name in programs}


def _status(code: int | None, signal: int | None) -> int:
    if signal is not None:
        return -signal
    assert code is not None
    return code
