"""The link port: the TCP port at which other machines reach all gateways of this one.

A connection begins with the id of its dataflow. The daemon reads that, and passes the connection to the
gateway, which goes on with it. So a firewall has to open one port, and no message goes through the daemon.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

from dora._ownership import UnsafeFile, connect_own
from dora._paths import DEFAULT_LINK_PORT, LINK_PORT_VARIABLE, host_and_port
from dora.errors import DoraError
from dora.wire.gateway_frame import ID_LENGTH

MOST_UNNAMED: Final = 128  # connections that have not named their dataflow
PATIENCE: Final = 3.0  # seconds for that; a gateway does it at once
_BACKLOG: Final = 128
_PAUSE: Final = 0.1  # seconds, when a connection cannot be accepted: without it, the loop would never rest
_LINE_EVERY: Final = 60.0  # seconds between two lines about strangers
# As many are worth a line. The gateway of a dataflow that has just ended here may dial a few times more.
_MANY: Final = 20

log = logging.getLogger("dora.daemon")


class LinkPort:
    """Accepts connections of other machines for the gateways here. For the thread of an asyncio loop."""

    def __init__(self, wanted: int | None, gateway_of: Callable[[str], str]) -> None:
        """``wanted``: the port; 0: none; None: `DEFAULT_LINK_PORT`, or any if that is taken.

        ``gateway_of`` returns the path of the socket of a dataflow's gateway; "" if it does not run here.
        """
        self._wanted = wanted
        self._port = DEFAULT_LINK_PORT if wanted is None else wanted  # the present one, or the last
        self._gateway_of = gateway_of
        self._interface = ""
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._unnamed: dict[asyncio.Task[None], None] = {}  # in the order in which they came
        self._strangers = 0  # since the last line about them
        self._next_line = 0.0

    def open(self, interface: str) -> int:
        """Listen at an address, and no more at a former one; return the port, 0 if there is to be none.

        Raises `DoraError` if that is not possible; nothing listens then.
        """
        if self._wanted == 0 or (self._listener is not None and interface == self._interface):
            return self._port
        self.close()
        listener = self._listen(interface)
        listener.setblocking(False)
        self._interface, self._listener = interface, listener
        self._port = listener.getsockname()[1]
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))
        log.info("listening for links at %s", host_and_port(interface, self._port))
        return self._port

    def _listen(self, interface: str) -> socket.socket:
        try:
            return _server(interface, self._port)
        except OSError as error:
            where = host_and_port(interface, self._port)
            if error.errno == errno.EADDRINUSE and self._wanted is None:
                log.warning("port %d is taken, so links have another one (--link-port)", self._port)
            elif error.errno == errno.EADDRINUSE:
                raise DoraError(
                    f"port {self._port} for links is taken; give another one with --link-port or "
                    f"{LINK_PORT_VARIABLE}"
                ) from None
            else:
                raise DoraError(f"cannot listen for links at {where}: {error.strerror}") from None
        try:
            return _server(interface, 0)
        except OSError as error:
            raise DoraError(f"there is no free port for links at {interface}: {error.strerror}") from None

    def close(self) -> None:
        """Listen no more. The connections that gateways have go on."""
        if self._listener is None or self._accepting is None:
            return
        self._accepting.cancel()
        # At once: the next listener may get the same descriptor before the task has ended.
        asyncio.get_running_loop().remove_reader(self._listener)
        for task in self._unnamed:
            task.cancel()
        self._listener.close()
        self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # the other side has left already, or no descriptor is free
                await asyncio.sleep(_PAUSE)
                continue
            task = loop.create_task(self._take(connection))
            self._unnamed[task] = None
            task.add_done_callback(lambda task: self._unnamed.pop(task, None))
            if len(self._unnamed) > MOST_UNNAMED:
                # A gateway names its dataflow at once, so the one that has waited longest is none.
                oldest = next(iter(self._unnamed))
                del self._unnamed[oldest]
                oldest.cancel()
                self._count_stranger()
            await asyncio.sleep(0)  # `sock_accept` does not wait while others are there

    async def _take(self, connection: socket.socket) -> None:
        """Read which dataflow a connection is for, and not a byte more; pass it on, or close it."""
        loop = asyncio.get_running_loop()
        name = b""
        with connection:
            try:
                async with asyncio.timeout(PATIENCE):
                    while len(name) < ID_LENGTH:
                        part = await loop.sock_recv(connection, ID_LENGTH - len(name))
                        if not part:
                            break
                        name += part
            except (OSError, TimeoutError):
                name = b""
            gateway = self._gateway_of(name.decode("ascii", "replace"))
            if not gateway:
                self._count_stranger()
                return
            try:
                with connect_own(gateway, 0.0) as passage:  # no waiting: a gateway may hang
                    socket.send_fds(passage, [b"\0"], [connection.fileno()])
            except (OSError, UnsafeFile):
                pass  # the gateway is about to start or to end; the other side dials again

    def _count_stranger(self) -> None:
        """Log now and then how many connections have named no dataflow."""
        self._strangers += 1
        now = asyncio.get_running_loop().time()
        if self._strangers >= _MANY and now >= self._next_line:
            log.info("%d connections at the link port named no dataflow of this machine", self._strangers)
            self._next_line, self._strangers = now + _LINE_EVERY, 0


def _server(interface: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    return socket.create_server((interface, port), family=family, backlog=_BACKLOG)
