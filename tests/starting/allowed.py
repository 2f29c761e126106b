"""What may differ between the two ways, and which nodes start plainly in both.

The page `docs/reference/two-ways-to-start-a-node.md` has the same reasons.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from two_ways import Allowed

FRAME = re.compile(r"^\s*(File \")?\S*/dora/daemon/template/\w+\.py\b.*$", re.MULTILINE)
OF_DUMP = re.compile(r"Extension modules:|  Binary file |  <truncated rest of calls>")
OF_NUMPY = ("numpy.", "RankWarning")


def without_frame(lines: list[Any]) -> list[Any]:
    """Return lines, or frames, without frames of the template and of C, nor lists of extension modules."""
    texts = [str(line) for line in lines if line]
    return [text for text in texts if not FRAME.search(text) and not OF_DUMP.match(text)]


def without_depth(value: object) -> str:
    return re.sub(r"\b99\d\b", "…", str(value))


def of_python(value: Any) -> list[str]:
    return [item for item in value if not any(name in str(item) for name in OF_NUMPY)]


def of_program(filters: Any) -> Any:
    options, items = filters
    return [options, of_python(items)]


def without_internal_signal(status: dict[str, str]) -> dict[str, str]:
    """Return a status without signal 33, which glibc uses to change the user of all threads."""
    return {**status, "SigCgt": f"{int(status['SigCgt'], 16) & ~(1 << 32):x}"}


def without_libffi(descriptors: dict[str, str]) -> dict[str, str]:
    """Return descriptors without the one that libffi, which ctypes uses, holds to its own file."""
    return {
        number: path for number, path in descriptors.items() if not Path(path).name.startswith("libffi.so.")
    }


FRAMES = "Frames of dora are below the program"
PRELOADED = "What the template has imported is loaded"
PARENT = "The parent process is the template"
FROZEN = "Objects of the template are exempt from garbage collection"
SIGNAL_OF_C = "glibc catches its own signal 33"
HASHES = "`hash()` has the seed of the template"

LATE = "NumPy and pyarrow are loaded before the program runs"

ALLOWED = (
    Allowed("*", "outside: child of its daemon", PARENT),
    Allowed("*", "fact: filters of warnings", PRELOADED, of_python),
    Allowed("*", "fact: warnings", PRELOADED, of_program),
    Allowed("*", "fact: loggers", PRELOADED),
    Allowed("*", "fact: packages at first", PRELOADED),
    Allowed("loaded_modules", "stdout", PRELOADED),
    Allowed("*", "outside: descriptors", PRELOADED, without_libffi),
    Allowed("*", "stderr", FRAMES, without_frame),
    Allowed("*", "fact: stack", FRAMES, without_frame),
    Allowed("recursion", "stderr", FRAMES, without_depth),
    Allowed("*", "fact: depth of calls", FRAMES, without_depth),
    Allowed("*", "fact: frozen objects", FROZEN),
    Allowed("*", "outside: status", SIGNAL_OF_C, without_internal_signal),
    Allowed("*", "fact: signals", SIGNAL_OF_C, without_internal_signal),
    Allowed("twin_?", "fact: hash of a text", HASHES),
    Allowed("late_variable", "fact: threads of OpenBLAS", LATE),
)

# Node → why no template can start it, as the daemon's debug log says.
PLAIN = {
    "no_utf_8": "no text that Python can read",
    "null_byte": "no text that Python can read",
    "unknown_encoding": "no text that Python can read",
    "shadowed": "a file beside its script has the name of the module",
    "ordinary_variables": "`HOME`",
    "locale": "`LANG`",
    "python_variables": "`PYTHONDONTWRITEBYTECODE`",
    "hash_seed": "`PYTHONHASHSEED`",
    "one_thread_of_blas": "`OMP_NUM_THREADS`",
    "two_threads_of_blas": "`OPENBLAS_NUM_THREADS`",
    "own_environment": "it does not run",
    "inline_metadata": "it does not run",
    "python_and_a_text": "it does not run",
    "python_with_options": "it does not run",
    "no_such_package": "it does not run",
}
