"""Template processes that this machine keeps warm, one for each interpreter of its dataflows."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from typing import Final

import psutil

from dora.cluster.protocol import TemplateView
from dora.daemon.template.process import BACKLOG, ask_states, start_template, warm_address
from dora.daemon.watchdog import Watchdog
from dora.errors import DoraError
from dora.wire.correlation import uuid7

_ANSWER_TIMEOUT: Final = 0.8  # seconds; less than the coordinator waits (`TIMEOUTS`)
# Of a template that is killed again and again. It stays away then until the next dataflow starts.
_MAX_KILLS: Final = 10

log = logging.getLogger("dora.daemon")


class WarmTemplates:
    """Starts the template process of an interpreter, and again when it was killed.

    They have a guardian, as a run has: a stopped one would outlive a daemon that was killed.
    """

    def __init__(self) -> None:
        self._templates: dict[str, _Kept] = {}
        self._mark = uuid7()
        self._watchdog: Watchdog | None = None

    def ensure(self, interpreter: str) -> None:
        """Have a template process for an interpreter, if this system can have one.

        That of another daemon of this user will do.
        """
        if not sys.platform.startswith("linux"):
            return
        kept = self._templates.get(interpreter)
        if kept is None or not kept.is_there:
            try:
                address = warm_address(interpreter)
                if not _is_served(address):
                    if self._watchdog is None:
                        self._watchdog = Watchdog(self._mark)
                        if self._watchdog.fault:
                            log.warning("template processes: %s", self._watchdog.fault)
                    self._templates[interpreter] = _Kept(interpreter, address, self._mark)
            except (OSError, DoraError) as error:
                log.warning("no template process can be kept, so nodes start slower: %s", error)

    def views(self) -> list[TemplateView]:
        """Return what the template processes report of themselves; may be called from another thread."""
        return [view for kept in list(self._templates.values()) for view in kept.views()]

    async def close(self) -> None:
        """End the template processes."""
        for kept in self._templates.values():
            await kept.close()
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None


class _Kept:
    """One warm template process: started again when it was killed, and not when it was idle too long.

    When an installed package has changed, a new process takes its place at once. The old one stays for the
    nodes that it has forked.
    """

    def __init__(self, interpreter: str, path: str, mark: str) -> None:
        """Start it, with its socket at a path, marked for its guardian; raises ``OSError``."""
        self._interpreter = interpreter
        self._mark = mark
        self._path = path
        self._old: list[subprocess.Popen[bytes]] = []
        self._start()
        self.is_there = True
        self._watching = asyncio.create_task(self._watch())

    def _start(self) -> None:
        _remove(self._path)  # the socket of a killed process is still there, and `bind` would fail
        self._retired, theirs = os.pipe()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(self._path)
                os.chmod(self._path, 0o600)  # before `listen`: until then nobody can connect
                listener.listen(BACKLOG)
                self._process = start_template(listener, self._interpreter, [theirs], run_id=self._mark)
        except OSError:
            os.close(self._retired)
            raise
        finally:
            os.close(theirs)

    async def _watch(self) -> None:
        kills = 0
        while True:
            process = self._process
            if await _retires(self._retired):
                self._old = [one for one in [*self._old, process] if one.poll() is None]
                log.info("an installed package has changed, so a new template process starts")
            else:
                status = process.wait()
                kills += 1
                if not status or kills == _MAX_KILLS:
                    break
                log.warning(
                    "template process %d ended with status %d; a new one starts", process.pid, status
                )
            try:
                self._start()
            except OSError as error:
                log.warning("no template process can be started: %s", error)
                break
        self.is_there = False
        _remove(self._path)

    def views(self) -> list[TemplateView]:
        """Return what it reports, and those that it has forked; none if it does not answer."""
        try:
            states = ask_states(self._path, _ANSWER_TIMEOUT)
        except OSError:
            return []
        return [
            TemplateView(
                state.pid, self._interpreter, state.packages, state.starts, state.since, _memory(state.pid)
            )
            for state in states
        ]

    async def close(self) -> None:
        self._watching.cancel()
        for process in [*self._old, self._process]:
            process.kill()
            process.wait()
        if self.is_there:  # otherwise another daemon of this user may have its socket there
            _remove(self._path)


async def _retires(pipe: int) -> bool:
    """Wait until a template process accepts no more nodes, or ends, and return whether it lives on.

    ``pipe`` is the one in which it says so; it is closed then.
    """
    loop = asyncio.get_running_loop()
    written = asyncio.Event()
    loop.add_reader(pipe, written.set)
    try:
        await written.wait()
        return bool(os.read(pipe, 1))
    finally:
        loop.remove_reader(pipe)
        os.close(pipe)


def _is_served(path: str) -> bool:
    """Return whether a process accepts connections at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setblocking(False)
        try:
            connection.connect(path)
        except BlockingIOError:  # so many connect to it now
            return True
        except OSError:
            return False
    return True


def _memory(pid: int) -> int:
    """Return the proportional set size of a process in bytes, 0 if it is gone."""
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.Error:
        return 0


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # it is gone already
