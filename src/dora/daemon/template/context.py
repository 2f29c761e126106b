"""The things that a process inherits from the one that starts it."""

from __future__ import annotations

import os
import re
import resource
import signal
from functools import cache
from typing import Final

# Libraries read these when they are loaded, Python when it starts: first what every node loads, then
# packages of robotics and AI whose variables do not begin with the name of their module.
READ_EARLY: Final = re.compile(
    r"(OMP|GOMP|KMP|OPENBLAS|GOTO|MKL|BLIS|VECLIB|NUMEXPR|NPY|NUMPY|ARROW|JE_ARROW|MIMALLOC|OPENSSL|LD"
    r"|MALLOC|GLIBC|PYTHON|LC|ICEORYX|IOX|RUST|MSGSPEC"
    r"|CUDA|CUDNN|NVIDIA|HIP|ROCR|NCCL|XLA|TF|PYTORCH|KINETO|GLOG|RAYON|TOKENIZERS|FFMPEG"
    r"|OPENCV|QT|QML|SDL|EGL|LIBGL|MESA|GALLIUM|__GL|GST|ALSA|PULSE|LIBUSB)_?.*"
    r"|LANG|LANGUAGE|VIRTUAL_ENV|HOME"
)

# Of RUST_LOG, directives for parts of dora alone say nothing to a library.
_DORA_DIRECTIVES: Final = re.compile(r"\s*(dora[\w:.-]*\s*(=\s*\w+\s*)?(,\s*|$))+")

# A process inherits these, and a fork of the template could not have others.
_STATUS: Final = re.compile(
    r"^(?:Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):.*$", re.MULTILINE
)
_IGNORED_BY_PYTHON: Final = {signal.SIGPIPE, signal.SIGXFSZ}


LIMITS: Final = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


def is_read_early(name: str, value: str) -> bool:
    """Return whether a library may read this variable, with this value, when it is loaded.

    >>> is_read_early("RUST_LOG", "debug"), is_read_early("RUST_LOG", "dora.daemon.spawn=debug")
    (True, False)
    """
    if name == "RUST_LOG" and _DORA_DIRECTIVES.fullmatch(value):
        return False
    return READ_EARLY.fullmatch(name) is not None


@cache
def context() -> str:
    """Return what a process inherits from the one that starts it, apart from what a request says.

    These are user, groups, capabilities, namespaces, control group, priority, scheduling, hard limits, root
    folder and the score by which processes are killed when memory is short.
    """
    lines = _STATUS.findall(_read("status"))
    spaces = [read_link(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))]
    limits = [resource.getrlimit(number)[1] for number in LIMITS]
    scheduling = f"{os.getpriority(os.PRIO_PROCESS, 0)} {os.sched_getscheduler(0)}"
    return "\n".join(
        [
            *lines,
            *spaces,
            _read("cgroup"),
            _read("oom_score_adj"),
            scheduling,
            repr(limits),
            read_link("/proc/self/root"),
        ]
    )


def ignored_signals() -> frozenset[int]:
    """Return the signals that this process ignores, so that a process that it starts does, too."""
    found = re.search(r"^SigIgn:\s*([0-9a-f]+)", _read("status"), re.MULTILINE)
    mask = int(found[1], 16) if found is not None else 0
    return frozenset(number for number in range(1, 65) if mask >> (number - 1) & 1) - _IGNORED_BY_PYTHON


def _read(name: str) -> str:
    with open(f"/proc/self/{name}", encoding="utf-8", errors="replace") as file:
        return file.read()


def read_link(path: str) -> str:
    """Return where a link leads, "" if that cannot be told."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def umask() -> int:
    """Return the umask of this process, without changing it."""
    # `os.umask` would change it for a moment, also for files that other threads make.
    found = re.search(r"^Umask:\s*(\d+)", _read("status"), re.MULTILINE)
    return int(found[1], 8) if found is not None else 0o022
