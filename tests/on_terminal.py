"""Commands of dora on a terminal of their own."""

from __future__ import annotations

import codecs
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from waiting import TIMEOUT, wait_until


class OnTerminal:
    """A command on a terminal of its own; ``text`` is all that it has written so far."""

    def __init__(
        self,
        *arguments: str,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "dora"),
    ) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=env,
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a character may come in two pieces

    def read_until(self, there: Callable[[str], bool]) -> str:
        wait_until(lambda: there(self._read()), self.text)
        return self.text

    def _read(self) -> str:
        try:
            self.text += self._decoder.decode(os.read(self._master, 1 << 16))
        except OSError:  # nothing there, or the end
            pass
        return self.text

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        status = self.process.wait(TIMEOUT)
        self._read()
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextmanager
def on_terminal(
    *arguments: str, cwd: str | Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[OnTerminal]:
    """Run a command; it is killed at the end of the block."""
    command = OnTerminal(*arguments, cwd=cwd, env=env)
    try:
        yield command
    finally:
        command.close()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
