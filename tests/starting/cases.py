"""The nodes that are started both ways: programs in `programs/`, and short ones that are written here."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from dora.daemon.processes.interpreter import find_uv

PROGRAMS = Path(__file__).parent / "programs"


class Case(NamedTuple):
    """A node: its fields in the dataflow file, the text of its program, its end, and its number of facts.

    Without a text, the program is in `programs/`.
    """

    fields: dict[str, Any]
    text: bytes = b""
    end: str = "exited with status 0"
    facts: int = 0


def short(text: str | bytes, end: str = "exited with status 0", **fields: Any) -> Case:
    """Return the case of a program of a few lines, which prints what it finds."""
    if isinstance(text, str):
        text = textwrap.dedent(text).removeprefix("\n").encode()
    return Case(fields, text, end)


PATIENT = {"queue_size": 200, "queue_policy": "backpressure"}
PRINT_ME = "import sys\nprint(sys.argv, sys.path, sys.orig_argv, __file__)\n"

# Programs that end well and record what they find.
PROGRAM_CASES = {
    "main_module": Case({"args": ["--flag", "two words", "wäge", "", "-"]}, facts=30),
    "python_state": Case({"args": "one"}, facts=60),
    "process_state": Case({"args": ["a", "b c"], "env": {"OF_NODE": "1"}}, facts=40),
    "loaded_modules": Case({}),
    "observed": Case({"args": ["to be", "seen"]}, facts=3),
    "observed_module": Case({"path": "python", "args": "-u -m observed an argument"}, facts=3),
    "standard_streams": Case({}, facts=7),
    "end_of_program": Case({}, facts=1),
    "shown_warnings": Case({}),
    "signals_of_node": Case({}, facts=8),
    "children_of_node": Case({}, facts=18),
    "arrays": Case({}, facts=12),
    "twin_a": Case({"path": "randomness.py"}, facts=18),
    "twin_b": Case({"path": "randomness.py"}, facts=18),
    "shadowed": Case({"path": "shadowing/shadowed.py"}, facts=4),
    "changed": Case({"restart_delay": 0.01, "max_restarts": 2}, end="", facts=2),
    "console_script": Case(
        {"path": "pytest", "args": "-p no:cacheprovider -p no:xdist --assert plain -q console_script.py"},
        facts=4,
    ),
    "one_processor": Case({"path": "process_state.py", "cpu_affinity": [0]}, facts=40),
    "ordinary_variables": Case(
        {"path": "variables.py", "env": {"HOME": "/nowhere", "TEXT": "wäge"}}, facts=11
    ),
    "folder_for_temporary_files": Case({"path": "variables.py", "env": {"TMPDIR": "/var/tmp"}}, facts=11),
    "time_zone": Case({"path": "variables.py", "env": {"TZ": "Asia/Tokyo"}}, facts=11),
    "locale": Case({"path": "variables.py", "env": {"LC_ALL": "C", "LANG": "C"}}, facts=11),
    "python_variables": Case(
        {
            "path": "variables.py",
            "env": {
                "PYTHONPATH": "parcel:/nowhere",
                "PYTHONOPTIMIZE": "1",
                "PYTHONWARNINGS": "error::FutureWarning",
                "PYTHONIOENCODING": "latin-1:replace",
                "PYTHONHASHSEED": "7",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONSAFEPATH": "",
                "TEXT": "fails",
            },
        },
        facts=11,
    ),
    "hash_seed": short("print(hash('text'))\n", env={"PYTHONHASHSEED": "7"}),
    "one_thread_of_blas": Case({"path": "blas_threads.py", "env": {"OMP_NUM_THREADS": "1"}}, facts=2),
    "late_variable": Case({"path": "late_variable.py"}, facts=1),
    "two_threads_of_blas": Case({"path": "blas_threads.py", "env": {"OPENBLAS_NUM_THREADS": "2"}}, facts=2),
    "large_environment": Case(
        {"path": "variables.py", "env": {f"LARGE_{number}": "x" * 60_000 for number in range(15)}}, facts=11
    ),
    "many_arguments": short(
        "import sys\nprint(len(sys.argv), sum(map(len, sys.argv)))\n", args=["y" * 1000] * 300
    ),
}
if find_uv():
    PROGRAM_CASES["own_environment"] = Case(
        {"path": "python_state.py", "python": {"requirements": []}, "args": "x"}, facts=60
    )
    PROGRAM_CASES["inline_metadata"] = short(
        """
        # /// script
        # dependencies = []
        # ///
        import sys
        print(sys.prefix, sys.executable, sys.path)
        """
    )
if importlib.util.find_spec("cv2"):
    PROGRAM_CASES["pictures"] = Case({}, facts=5)
if importlib.util.find_spec("torch"):
    PROGRAM_CASES["tensors"] = Case({}, facts=3)

# How the source text of a program, and its path, are read.
SOURCE_CASES = {
    "empty": short(b"\n"),
    "no_newline_at_the_end": short(b"print('last', end='')\nprint(__file__)"),
    "windows_lines": short(b"text = '''a\r\nb'''\r\nprint(repr(text))\r\n"),
    "byte_order_mark": short(b"\xef\xbb\xbfprint('w\xc3\xa4ge')\n"),
    "latin_1": short(b"# -*- coding: latin-1 -*-\nprint('w\xe4ge')\n"),
    "future": short(
        """
        from __future__ import annotations
        x: undefined = 1
        print(__annotations__, sorted(globals()))
        """
    ),
    "no_future": short(
        """
        import __main__
        x: int = 1
        print(__main__.__annotations__)
        try:
            y: undefined = 1
            __annotate__(1)  # since Python 3.14, annotations are evaluated when they are read
        except NameError as e:
            print(e)
        """
    ),
    "first_line_of_a_script": short("#!/usr/bin/env python3\n" + PRINT_ME),
    "executable": short(f"#!{sys.executable}\n" + PRINT_ME, path="./executable.run"),
    "relative": short(PRINT_ME, path="parcel/../relative.py"),
    "with_a_dot": short(PRINT_ME, path="./with_a_dot.py"),
    "a_link": short(PRINT_ME, path="links/a_link.py"),
    "a_link_to_another_name": short(PRINT_ME, path="links/other_name.py"),
    "bytes_in_the_name": short(
        "import sys, os\nprint(ascii(sys.path[0]), __file__, ascii(os.path.realpath(__file__)))\n",
        path="links/bytes_in_the_name.py",
    ),
    "name_with_blanks": short(PRINT_ME, path="wäge und name.py"),
    "python_and_a_file": short(PRINT_ME, path="python", args="-u python_and_a_file.py x"),
    "python_and_a_text": short(b"", path="python", args=["-c", PRINT_ME.replace(", __file__", ""), "x"]),
    "python_with_options": short(
        "import sys\nprint(sys.flags, sys._xoptions, sys.warnoptions)\n",
        path="python",
        args="-u -O -X dev -W ignore python_with_options.py",
    ),
}

# Programs that fail, or end in another way than by their last line.
THREAD = """import threading
def work():
    {}
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
FAILURE_CASES = {
    "exception": short(
        """
        def inner(x):
            raise ValueError(f'mine {x}')

        def outer():
            return [inner(a) for a in (1, 2)]

        outer()
        """,
        "exited with status 1",
    ),
    "chained": short(
        """
        try:
            try:
                {}['x']
            except KeyError as error:
                raise ValueError('second') from error
        except ValueError:
            1 / 0
        """,
        "exited with status 1",
    ),
    "group_of_exceptions": short(
        """
        error = ValueError('a')
        error.add_note('a note')
        raise ExceptionGroup('group', [error, TypeError('b')])
        """,
        "exited with status 1",
    ),
    "syntax_error": short(
        """
        x = 1
        if x
            y = 2
        """,
        "exited with status 1",
    ),
    "indentation_error": short("if True:\nx = 1\n", "exited with status 1"),
    "null_byte": short(b"x = 1\n\0y = 2\n", "exited with status 1"),
    "no_utf_8": short(b"x = 'w\xe4ge'\n", "exited with status 1"),
    "unknown_encoding": short(b"# coding: nothing\nx = 1\n", "exited with status 1"),
    "deep_source": short("x = " + "(" * 300 + ")" * 300 + "\n", "exited with status 1"),
    "late_syntax_error": short("import broken_module\n", "exited with status 1"),
    "import_error": short("import no_such_module_anywhere\n", "exited with status 1"),
    "error_of_a_library": short("import json\njson.loads('{')\n", "exited with status 1"),
    "name_error": short("sys.exit(3)\n", "exited with status 1"),
    "recursion": short(
        """
        def again():
            again()

        again()
        """,
        "exited with status 1",
    ),
    "exit_3": short("raise SystemExit(3)\n", "exited with status 3"),
    "exit_text": short("import sys\nsys.exit('a text')\n", "exited with status 1"),
    "exit_none": short("""
        import sys
        print('end', end='')
        sys.exit()
        """),
    "exit_large": short("import sys\nsys.exit(256 + 7)\n", "exited with status 7"),
    "exit_negative": short("import sys\nsys.exit(-1)\n", "exited with status 255"),
    "exit_true": short("import sys\nsys.exit(True)\n", "exited with status 1"),
    "exit_object": short("import sys\nsys.exit((1, 'b'))\n", "exited with status 1"),
    "exit_huge": short("import sys\nsys.exit(2**40 + 3)\n", "exited with status 3"),
    "quit": short("quit(4)\n", "exited with status 4"),
    "os_exit": short(
        """
        import atexit, os
        atexit.register(print, 'not called')
        print('lost?', end='')
        os._exit(5)
        """,
        "exited with status 5",
    ),
    "exit_in_a_function_at_exit": short("import atexit, sys\natexit.register(sys.exit, 3)\n"),
    "interrupt": short("raise KeyboardInterrupt\n", "was killed by SIGINT"),
    "interrupt_by_a_signal": short(
        """
        import os, signal, time
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
        """,
        "was killed by SIGINT",
    ),
    "terminated": short(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n", "was killed by SIGTERM"
    ),
    "killed": short("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "was killed by SIGKILL"),
    "killed_in_a_thread": short(
        THREAD.format("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), "was killed by SIGKILL"
    ),
    "abort": short(
        """
        import os
        print('before', end='')
        os.abort()
        """,
        "was killed by SIGABRT",
    ),
    "segmentation_fault": short("import ctypes\nctypes.string_at(0)\n", "was killed by SIGSEGV"),
    "dump_of_a_segmentation_fault": short(
        """
        import ctypes, faulthandler
        faulthandler.enable()
        def inner():
            ctypes.string_at(0)

        inner()
        """,
        "was killed by SIGSEGV",
    ),
    "dump_of_a_fault_in_a_thread": short(
        "import ctypes, faulthandler\nfaulthandler.enable()\n"
        + THREAD.format("threading.main_thread().join(1); ctypes.string_at(0)"),
        "was killed by SIGSEGV",
    ),
    "dump_after_a_time": short(
        """
        import faulthandler, time
        faulthandler.dump_traceback_later(1, exit=True)
        time.sleep(60)
        """,
        "exited with status 1",
    ),
    "exception_in_a_thread": short(THREAD.format("raise ValueError('in a thread')") + "print('goes on')\n"),
    "exit_in_a_thread": short(THREAD.format("raise SystemExit(3)") + "print('goes on')\n"),
    "own_hook": short(
        """
        import sys
        sys.excepthook = lambda kind, error, tb: print('hook', kind, error, tb.tb_lineno)
        1 / 0
        """,
        "exited with status 1",
    ),
    "broken_hook": short(
        """
        import sys
        def hook(*_):
            raise TypeError('in the hook')
        sys.excepthook = hook
        1 / 0
        """,
        "exited with status 1",
    ),
    "no_text": short(
        """
        class Mute(Exception):
            def __str__(self):
                raise ValueError

        raise Mute
        """,
        "exited with status 1",
    ),
    "surrogates": short("raise ValueError('a \\udcff and a \\u20ac')\n", "exited with status 1"),
    "closed_output": short(
        """
        import os
        os.close(1)
        print('x')
        """,
        "exited with status 1",
    ),
    "full_output": short(
        """
        import os, sys
        sys.stdout.reconfigure(write_through=False)
        os.dup2(os.open('/dev/full', os.O_WRONLY), 1)
        sys.stdout = open(1, 'w', closefd=False)
        print('x')
        """,
        "exited with status 120",
    ),
    "limit_of_traceback": short(
        """
        import sys
        sys.tracebacklimit = 1
        def f():
            1 / 0
        def g():
            f()
        g()
        """,
        "exited with status 1",
    ),
    "package": Case(
        {"path": "python", "args": "-u -m parcel one two"}, end="exited with status 1", facts=5
    ),
    "no_such_package": Case(
        {"path": "python", "args": "-m no_such_package.part"}, end="exited with status 1"
    ),
    "ready_made_node": Case({"path": "dora-replay"}, end="exited with status 1"),
    "replaced_itself": short(
        "import os\nos.execvp('sh', ['sh', '-c', 'echo exec; exit 9'])\n", "exited with status 9"
    ),
}

CASES = {**PROGRAM_CASES, **SOURCE_CASES, **FAILURE_CASES}

BROKEN_MODULE = "def f(:\n    pass\n"


def write_programs(folder: Path) -> None:
    """Write all programs into an empty folder."""
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROGRAMS / "facts.py", folder / "shadowing")
    (folder / "links").mkdir()
    (folder / "broken_module.py").write_text(BROKEN_MODULE)
    for name, case in (PROGRAM_CASES | SOURCE_CASES | FAILURE_CASES).items():
        path = folder / case.fields.get("path", f"{name}.py")
        if case.text and path.name not in ("python", ""):
            path = folder / f"{name}.py" if path.parent.name == "links" else path
            path.write_bytes(case.text)
        elif case.text:
            (folder / f"{name}.py").write_bytes(case.text)
    (folder / "executable.run").chmod(0o755)
    (folder / "links" / "a_link.py").symlink_to("../a_link.py")
    (folder / "links" / "other_name.py").symlink_to("../a_link_to_another_name.py")
    strange = bytes(folder) + b"/\xff\xfe"
    os.mkdir(strange)
    os.rename(folder / "bytes_in_the_name.py", strange + b"/\xe4.py")
    os.symlink(b"../\xff\xfe/\xe4.py", bytes(folder) + b"/links/bytes_in_the_name.py")


def nodes_of(facts: Path) -> list[dict[str, Any]]:
    """Return the nodes of the dataflow file.

    Each is to be started once more, in a thousand seconds: so no end of one ends the others.
    """
    nodes = []
    for name, case in CASES.items():
        own = {
            "id": name,
            "path": f"{name}.py",
            "restart_policy": "always",
            "restart_delay": 1000,
            "max_restarts": 1,
            **case.fields,
        }
        nodes.append({**own, "env": {"FACTS": str(facts / name), **case.fields.get("env", {})}})
    return nodes


# Nodes that join a dataflow, and exchange messages.
JOINED: list[dict[str, Any]] = [
    {"id": "source", "path": "source.py", "outputs": ["out"], "args": "of messages"},
    {
        "id": "host",
        "operators": [
            {
                "id": "first",
                "python": "first_operator.py",
                "inputs": {"in": PATIENT | {"source": "source/out"}},
                "outputs": ["out"],
            },
            {
                "id": "second",
                "python": "second_operator.py",
                "inputs": {"in": PATIENT | {"source": "host/first/out"}},
            },
        ],
    },
    {"id": "sink", "path": "sink.py", "inputs": {"in": PATIENT | {"source": "host/first/out"}}},
]

# Nodes whose daemon is killed.
KILLED: list[dict[str, Any]] = [
    {"id": "sleeper", "path": "sleeper.py", "args": "a"},
    {"id": "other_sleeper", "path": "sleeper.py", "args": "b"},
]
