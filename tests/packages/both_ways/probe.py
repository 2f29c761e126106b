"""Imports a package, uses it, and records what can be observed of this process, as JSON."""

import importlib
import importlib.metadata
import json
import os
import sys

name, file, use = sys.argv[1:4]
requirement = os.path.basename(file).rpartition("-")[0]
del sys.argv[1:]

try:
    module = importlib.import_module(name)
    used = repr(eval(use, {"module": module, "np": importlib.import_module("numpy")})) if use else ""
except BaseException as error:  # noqa: BLE001 - the ways are to fail alike
    used = f"{type(error).__name__}: {error}"

import asyncio
import atexit
import codecs
import ctypes
import decimal
import faulthandler
import gc
import locale
import logging
import multiprocessing
import re
import resource
import signal
import tempfile
import threading
import warnings

import numpy as np
import numpy.ma
import pyarrow

from dora import Node

Node()


THREADS = ("omp_get_max_threads", "openblas_get_num_threads", "scipy_openblas_get_num_threads64_")


def compiled_variables():
    texts = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    found, number = [], 0
    while texts[number] is not None:
        found.append(os.fsdecode(texts[number]))
        number += 1
    return dict(text.partition("=")[::2] for text in found)


def read(path):
    with open(path) as file:
        return file.read()


def children():
    return len(read(f"/proc/self/task/{os.getpid()}/children").split())


def descriptors():
    found = []
    for number in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            found.append(re.sub(r"\d{2,}", "…", os.readlink(f"/proc/self/fd/{number}")))
        except OSError:
            pass  # that of the folder itself
    return sorted(found)


def status(*fields):
    with open("/proc/self/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {field: lines.get(field) for field in fields}


def parallel_threads():
    """Return how many threads the libraries use that have OpenMP's function for it, or OpenBLAS's."""
    found = {}
    with open("/proc/self/maps") as file:
        paths = {line.split(None, 5)[5].strip() for line in file if line.count("/") > 1 and ".so" in line}
    for path in sorted(path for path in paths if re.search(r"gomp|iomp|libomp|openblas|mkl_rt", path)):
        library = ctypes.CDLL(path)
        for function in (
            "omp_get_max_threads",
            "openblas_get_num_threads",
            "scipy_openblas_get_num_threads64_",
        ):
            if hasattr(library, function):
                found[f"{os.path.basename(path)} {function}"] = getattr(library, function)()
    return found


def of_this_process(text):
    """Return a text without addresses and numbers of processes."""
    return re.sub(r"0x[0-9a-f]+|\b\d{4,}\b", "…", text)


def of_the_user(variables):
    return {key: value for key, value in variables.items() if not key.startswith("DORA_")}


def version():
    try:
        return importlib.metadata.version(requirement)
    except importlib.metadata.PackageNotFoundError:
        return ""


gc.unfreeze()
facts = {
    "version": version(),
    "result": used,
    "os.environ": of_the_user(dict(os.environ)),
    "environ of C": of_the_user(compiled_variables()),
    "working folder": os.getcwd(),
    "sys.argv": sys.argv,
    "sys.path": sys.path,
    "sys.flags": [repr(sys.flags), sys.warnoptions, sorted(sys._xoptions)],
    "__main__": sorted(vars(sys.modules["__main__"])),
    "modules": sorted(sys.modules),
    "import hooks": [[repr(type(hook)) for hook in sys.meta_path], len(sys.path_hooks)],
    "sys.excepthook": [of_this_process(repr(item)) for item in (sys.excepthook, threading.excepthook)],
    "sys.displayhook": of_this_process(repr(sys.displayhook)),
    "limits of Python": [sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()],
    "tracing": [repr(sys.gettrace()), repr(sys.getprofile())],
    "flags of dlopen": sys.getdlopenflags(),
    "streams": [type(item).__name__ for item in (sys.stdin, sys.stdout, sys.stderr)],
    "threads": sorted(thread.name for thread in threading.enumerate()),
    "children": children(),
    "descriptors": descriptors(),
    "signal handlers": {
        number: of_this_process(repr(signal.getsignal(number))) for number in sorted(signal.valid_signals())
    },
    "status": status("Umask", "SigBlk", "SigIgn", "NoNewPrivs", "Seccomp"),
    "name": read("/proc/self/comm"),
    "timers": [signal.getitimer(kind) for kind in (signal.ITIMER_REAL, signal.ITIMER_PROF)],
    "rlimits": [resource.getrlimit(number) for number in range(16)],
    "priority": [os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))],
    "locale": [locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(False)],
    "filters of warnings": sorted(of_this_process(repr(item)) for item in warnings.filters),
    "logging": [
        [repr(type(handler)) for handler in logging.root.handlers],
        logging.root.level,
        logging.getLoggerClass().__name__,
        logging.root.manager.disable,
    ],
    "garbage collection": [gc.isenabled(), gc.get_threshold(), len(gc.callbacks), gc.get_debug()],
    "functions at exit": atexit._ncallbacks(),
    "faulthandler": faulthandler.is_enabled(),
    "decimal": repr(decimal.getcontext().prec),
    "NumPy": [np.geterr(), of_this_process(repr(np.get_printoptions()))],
    "threads of OpenMP and BLAS": parallel_threads(),
    "multiprocessing": multiprocessing.get_start_method(allow_none=True),
    "asyncio": repr(type(asyncio.get_event_loop_policy())) if sys.version_info < (3, 14) else "",
    "temporary folder": tempfile.gettempdir(),
    "codecs": codecs.lookup("utf-8").name,
}
facts["way"] = "forked" if "/daemon/template/" in read(f"/proc/{os.getppid()}/cmdline") else "plain"
with open(file, "w") as written:
    json.dump(facts, written, default=repr)
