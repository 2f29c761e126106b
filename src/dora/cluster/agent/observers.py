"""Observer processes on this machine, for clients on other machines; see `dora.observe.remote`.

Each connects to the coordinator by itself. It ends with its standard input, and so with the daemon, however
the daemon ends.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

MAX_OBSERVERS: Final = 32  # at a time

log = logging.getLogger("dora.daemon")


class Observers:
    """Starts observers. ``machine`` is the id of this machine.

    ``authority`` of the coordinator: see `dora.transport.proof.proven_connection`.
    """

    def __init__(self, token: str, machine: str, authority: str = "") -> None:
        self._token = token
        self._machine = machine
        self._authority = authority
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, coordinator: str, ticket: str, socket: str, interpreter: str) -> str:
        """Start an observer for the coordinator at this URL; return why it failed, or ""."""
        from dora.observe.remote.protocol import StartMessage

        if len(self._tasks) >= MAX_OBSERVERS:
            return (
                f"there are {MAX_OBSERVERS} observers of machine `{self._machine}` already; end one of them"
            )
        try:
            process = await asyncio.create_subprocess_exec(
                *(interpreter, "-P", "-m", "dora.observe.remote.server"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return f"{interpreter} cannot be run on machine `{self._machine}`: {error}"
        assert process.stdin is not None
        url = f"{coordinator}/api/observers/{ticket}"
        order = StartMessage(url, self._token, socket, self._machine, self._authority)
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        task = asyncio.create_task(self._watch(process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return ""

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        try:
            code = await process.wait()
            if code:
                log.warning("an observer ended with status %d", code)
        finally:
            if process.stdin is not None:
                process.stdin.close()  # ends it with this process

    async def close(self) -> None:
        """End all observers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
