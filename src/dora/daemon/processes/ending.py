"""End a process that ends with its standard input."""

from __future__ import annotations

import subprocess


def end_by_stdin(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Close the standard input of a process and wait for its end; kill it after so many seconds."""
    assert process.stdin is not None
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has ended, and what was written last is for nobody
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
