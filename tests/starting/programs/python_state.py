import sys

first = {name for name in sys.modules if "." not in name}
import atexit
import builtins
import codecs
import contextvars
import decimal
import faulthandler
import gc
import importlib.util
import locale
import logging
import os
import site
import socket
import sysconfig
import threading
import time
import tracemalloc
import warnings

from facts import record

for name in (
    "abiflags argv base_exec_prefix base_prefix byteorder dont_write_bytecode exec_prefix executable flags "
    "float_info hash_info implementation int_info maxsize orig_argv path platform platlibdir prefix "
    "pycache_prefix thread_info version warnoptions _xoptions _base_executable _git _framework"
).split():
    record(f"sys.{name}", repr(getattr(sys, name, "none")))
record("names in sys", sorted(name for name in dir(sys)))
record("hooks", [
    sys.excepthook is sys.__excepthook__,
    sys.displayhook is sys.__displayhook__,
    sys.unraisablehook is sys.__unraisablehook__,
    sys.breakpointhook is sys.__breakpointhook__,
    threading.excepthook is threading.__excepthook__,
    sys.gettrace(),
    sys.getprofile(),
    sys.get_asyncgen_hooks(),
    sys.get_coroutine_origin_tracking_depth(),
])  # fmt: skip
record("import hooks", [[repr(hook) for hook in sys.meta_path], len(sys.path_hooks)])
record("import hooks of paths", [getattr(hook, "__name__", repr(hook)) for hook in sys.path_hooks])
record("limits", [
    sys.getrecursionlimit(),
    sys.getswitchinterval(),
    sys.get_int_max_str_digits(),
    threading.stack_size(),
])  # fmt: skip
record("builtins", sorted(vars(builtins)))
record("site", [site.ENABLE_USER_SITE, repr(exit), repr(help), site.PREFIXES])
record("debug", __debug__)
record("garbage collection", [gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks, gc.garbage])
record("frozen objects", gc.get_freeze_count() > 0)
record("tracemalloc", tracemalloc.is_tracing())
record("faulthandler", faulthandler.is_enabled())
record("locale", [locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(False), locale.getlocale()])
record(
    "encodings", [sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()]
)
record("error handlers", codecs.lookup_error("strict").__name__)
record("time zone", [time.tzname, time.timezone, time.daylight])
record("threads", [
    threading.active_count(),
    threading.current_thread() is threading.main_thread(),
    threading.main_thread().name,
    threading.main_thread().ident == threading.get_ident(),
    threading.main_thread().native_id == os.getpid() == threading.get_native_id(),
    [thread.name for thread in threading.enumerate()],
    len(sys._current_frames()),
    threading.gettrace() if hasattr(threading, "gettrace") else None,
])  # fmt: skip
record("names of new threads", threading.Thread().name)
record("filters of warnings", [repr(item) for item in warnings.filters])
record("warnings shown before", sorted(globals().get("__warningregistry__", {})))
record(
    "logging",
    [logging.root.handlers, logging.root.level, logging.raiseExceptions, logging.lastResort.level],
)
record("logging captures warnings", logging._warnings_showwarning is not None)
with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
    started = int(stat.read().rpartition(")")[2].split()[22 - 3]) / os.sysconf("SC_CLK_TCK")
    age = float(uptime.read().split()[0]) - started
record("log records count from the start", logging.makeLogRecord({}).relativeCreated / 1000 < age + 0.05)
record("loggers", sorted(logging.root.manager.loggerDict))
record("context", [len(contextvars.copy_context()), repr(decimal.getcontext())])
record("sockets", socket.getdefaulttimeout())
record("handlers at exit", atexit._ncallbacks() > 0)
record("installation", sysconfig.get_paths())
record("search", importlib.util.find_spec("facts").origin)
record("time used is that of this process", time.process_time() < 5 and time.thread_time() < 5)
record("umask and folder", [oct(os.umask(0o77)), os.getcwd()])
record("packages at first", sorted(first - set(sys.stdlib_module_names) - {"__main__", "_virtualenv"}))
record("environment is that of C", os.environb == dict(
    item.split(b"=", 1) for item in open("/proc/self/environ", "rb").read().split(b"\0")[:-1]
))  # fmt: skip

import asyncio
import multiprocessing

record("asyncio", [type(asyncio.get_event_loop_policy()).__name__, asyncio._get_running_loop()])
record("multiprocessing", [
    multiprocessing.current_process().name,
    multiprocessing.current_process().pid == os.getpid(),
    multiprocessing.get_start_method(allow_none=True),
    multiprocessing.parent_process(),
    multiprocessing.active_children(),
    multiprocessing.current_process().daemon,
    multiprocessing.cpu_count(),
])  # fmt: skip
