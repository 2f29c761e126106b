import ctypes
import os
import resource
import signal
import stat
from pathlib import Path

from facts import record

libc = ctypes.CDLL(None, use_errno=True)
libc.getenv.restype = ctypes.c_char_p


def control(option: int) -> int:
    """Return what `prctl` says about an attribute that it returns, or writes to its second argument."""
    value = ctypes.c_int(0)
    result = libc.prctl(option, ctypes.byref(value), 0, 0, 0)
    return result or value.value


lines = Path("/proc/self/status").read_text().splitlines()
status = dict(line.split(":", 1) for line in lines)
fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()

record(
    "command line", Path("/proc/self/cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")
)
record("environ", sorted(Path("/proc/self/environ").read_bytes().decode("utf-8", "replace").split("\0")))
record("os.environ", sorted(f"{name}={value}" for name, value in os.environ.items()))
record("order of environ", [
    item.split(b"=")[0].decode() for item in Path("/proc/self/environ").read_bytes().split(b"\0")
] == [*os.environ, ""])  # fmt: skip
record(
    "getenv of C", [str(libc.getenv(name)) for name in (b"FACTS", b"PATH", b"PYTHONUNBUFFERED", b"NOTHING")]
)
record("name", Path("/proc/self/comm").read_text())
record(
    "names of threads",
    [Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")],
)
record("program", os.readlink("/proc/self/exe"))
record("name of the program in C", ctypes.c_char_p.in_dll(libc, "program_invocation_name").value.decode())
record("folder", [os.readlink("/proc/self/cwd"), os.getcwd(), os.readlink("/proc/self/root")])
record("process ids", [
    os.getpgrp() == os.getpid(),
    os.getsid(0) == os.getpid(),
    os.getpid() == int(fields[2]),
    os.getppid() > 1,
    os.getpid() == libc.getpid(),
    fields[4:6],
])  # fmt: skip
record("owner", [os.getresuid(), os.getresgid(), os.getgroups(), status["CapEff"], status["CapBnd"]])
record("security", [status.get("NoNewPrivs"), status.get("Seccomp")])
record(
    "signals", {name: status[name].strip() for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")}
)
record(
    "handlers", {str(number): repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())}
)
record("mask", sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())))
record("wake-up", signal.set_wakeup_fd(-1))
record("timers", [signal.getitimer(timer) for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL)])
record("umask", oct(os.umask(0o77)))
record("nice", [os.nice(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)])
record("processors", [sorted(os.sched_getaffinity(0)), os.cpu_count()])
record("limits", {
    name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")
})  # fmt: skip
record("groups", Path("/proc/self/cgroup").read_text())
record("namespaces", [os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))])
record(
    "out of memory",
    [Path(f"/proc/self/{name}").read_text() for name in ("oom_score_adj", "coredump_filter")],
)
record("personality", libc.personality(0xFFFFFFFF))
record("signal at the end of its parent", control(2))
record("dumpable", libc.prctl(3, 0, 0, 0, 0))
record("keeps capabilities", libc.prctl(7, 0, 0, 0, 0))
record("cares for orphans", control(37))
record("timer slack", libc.prctl(30, 0, 0, 0, 0))
record("transparent huge pages", libc.prctl(42, 0, 0, 0, 0))


def described(number: int) -> str:
    mode = os.fstat(number).st_mode
    kind = "pipe" if stat.S_ISFIFO(mode) else os.readlink(f"/proc/self/fd/{number}")
    flags = int(Path(f"/proc/self/fdinfo/{number}").read_text().split("flags:")[1].split()[0], 8)
    return f"{number}: {kind}, flags {flags:o}, inherited {os.get_inheritable(number)}"


numbers = []
for number in range(1000):
    try:
        os.fstat(number)
    except OSError:
        continue
    numbers.append(number)
record("descriptors", [described(number) for number in numbers])
first = os.open("/", os.O_RDONLY)
record("first free descriptor", first)
os.close(first)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    record("children", "none")
record("children in /proc", Path(f"/proc/self/task/{os.getpid()}/children").read_text())
record("tasks", len(os.listdir("/proc/self/task")))
record("terminal", [os.isatty(number) for number in range(3)])
try:
    record("controlling terminal", os.open("/dev/tty", os.O_RDWR) > 0)
except OSError as error:
    record("controlling terminal", str(error))
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
record("time used by children", usage.ru_utime + usage.ru_stime)
record("locked memory", status["VmLck"])
