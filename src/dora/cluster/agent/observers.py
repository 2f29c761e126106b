"""The processes that look into this machine's dataflows for somebody on another one.

Each connects to the coordinator by itself, see `dora.observe.remote`. It ends with its standard input, so
with the daemon, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from dora.observe.remote.start_message import StartMessage

MAX_OBSERVERS: Final = 32  # at a time

log = logging.getLogger("dora.daemon")


class Observers:
    """``url`` is that of the coordinator, ``machine`` how this one is called.

    ``authority`` is the file by which a coordinator with TLS is known.
    """

    def __init__(self, url: str, token: str, machine: str, authority: str = "") -> None:
        self._url = url
        self._token = token
        self._machine = machine
        self._authority = authority
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, ticket: str, socket: str, interpreter: str) -> str:
        """Start one; return why there is none, or ""."""
        if len(self._tasks) >= MAX_OBSERVERS:
            return f"there are {MAX_OBSERVERS} looks at machine `{self._machine}` already; end one of them"
        try:
            process = await asyncio.create_subprocess_exec(
                *(interpreter, "-P", "-m", "dora.observe.remote"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return f"{interpreter} cannot be run on machine `{self._machine}`: {error}"
        assert process.stdin is not None
        url = f"{self._url}/api/observers/{ticket}"
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
                log.warning("a process that looked into a dataflow ended with status %d", code)
        finally:
            if process.stdin is not None:
                process.stdin.close()  # lets it end if we do

    async def close(self) -> None:
        """Let all of them end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
