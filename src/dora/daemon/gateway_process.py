"""The process of the gateway to other machines: started with the first link to one, and again when it dies.

A message that is in a gateway when it dies is lost, and counted by its receivers as any other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final, cast

import msgspec

from dora.daemon.event_loop import READ, WRITE, Loop
from dora.daemon.guardian import RUN_ID
from dora.daemon.logs.entry import WriteLog
from dora.daemon.processes.process import reap
from dora.dataflow.model import LogLevel
from dora.wire.decoders import DecodeError, from_json
from dora.wire.node_config import GatewayConfig

# Seconds until it is started again, doubled up to the longest: one that cannot run would cost the start
# of a Python again and again. Links to other machines are cut for as long.
_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_SHOWN: Final = 200  # bytes of a line that is no report
_HEALTHY_AFTER: Final = 5.0  # seconds; one that lived longer could run, so the pause is short again


class GatewayProcess:
    """Runs the gateway of one dataflow. For the daemon's thread only.

    ``on_ended`` is called when one has died; ``log`` gets what it reports.
    """

    def __init__(
        self,
        loop: Loop,
        run_id: str,
        log: WriteLog,
        on_ended: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._run_id = run_id
        self._log = log
        self._on_ended = on_ended
        self._process: subprocess.Popen[bytes] | None = None
        self._config: GatewayConfig | None = None
        self._output = b""
        self._unsent = bytearray()
        self._pause = _PAUSE
        self._began = 0.0
        self._closed = False
        self._sent = self._applied = 0  # configurations of the present process
        self._waiting: list[tuple[int, Callable[[], None]]] = []  # what `call_when_applied` got

    @property
    def pid(self) -> int | None:
        """The id of the process, if there is one."""
        return None if self._process is None else self._process.pid

    def apply(self, config: GatewayConfig) -> None:
        """Use a configuration from now on; start the process if there are links now."""
        if config == self._config:
            return
        self._config = config
        if self._process is not None:
            self._send()
        elif config.streams or config.sources:
            self._start()

    def call_when_applied(self, work: Callable[[], None]) -> None:
        """Call a function once the process uses the present configuration, or there is no process."""
        self._waiting.append((self._sent, work))
        self._call_waiting()

    def _call_waiting(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._applied:
            self._waiting.pop(0)[1]()

    def _start(self) -> None:
        if self._closed or self._process is not None:
            return
        self._began = time.monotonic()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dora.gateway"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, RUN_ID: self._run_id},
                bufsize=0,
                process_group=0,  # Ctrl-C at a terminal is for the daemon, which ends nodes first
            )
        except OSError as error:
            self._log("error", None, f"the gateway to other machines cannot be started: {error.strerror}")
            self._start_later()
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        for pipe in (self._process.stdin, self._process.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._loop.watch(self._process.stdout.fileno(), READ, lambda _: self._read())
        self._send()

    def _start_later(self) -> None:
        self._loop.call_later(self._pause, self._start)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _send(self) -> None:
        self._sent += 1
        self._unsent += msgspec.json.encode(self._config) + b"\n"
        self._write()

    def _write(self) -> None:
        """Write what the process takes: it may be starting, or stopped by a signal."""
        assert self._process is not None and self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        try:
            while self._unsent:
                del self._unsent[: os.write(descriptor, self._unsent)]
        except BlockingIOError:
            self._loop.watch(descriptor, WRITE, lambda _: self._write())
            return
        except OSError:
            self._unsent.clear()  # it has just died, and its next process gets the newest
        self._loop.unwatch(descriptor)

    def _read(self) -> None:
        process = self._process
        assert process is not None and process.stdout is not None
        try:
            data = os.read(process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._end()
            return
        *lines, self._output = (self._output + data).split(b"\n")
        for line in lines:
            try:
                level, text = from_json(line, tuple[str, str])
            except DecodeError:
                self._log("warn", None, f"the gateway to other machines printed {line[:_SHOWN]!r}")
                continue
            if level == "applied":
                self._applied += 1
                self._call_waiting()
            elif level in ("error", "warn", "info"):
                self._log(cast("LogLevel", level), None, text)

    def _end(self) -> None:
        self._forget()
        if self._closed:
            return
        if time.monotonic() - self._began > _HEALTHY_AFTER:
            self._pause = _PAUSE
        self._log("warn", None, "the gateway to other machines has ended, and is started again")
        self._on_ended()  # after `_forget`, which has reaped it: the clean-up is for dead processes
        self._start_later()

    def _forget(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        self._unsent.clear()
        self._loop.unwatch(process.stdin.fileno())
        self._loop.unwatch(process.stdout.fileno())
        process.stdin.close()
        process.stdout.close()
        process.kill()
        reap(process)
        self._output = b""  # it may have died in the middle of a line
        self._applied = self._sent  # without a process nothing arrives, so what waits for it may go on
        self._call_waiting()
        self._sent = self._applied = 0

    def close(self) -> None:
        """End the process."""
        self._closed = True
        self._waiting.clear()
        self._forget()
