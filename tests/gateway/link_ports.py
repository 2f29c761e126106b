"""A link port as the daemon of a machine has it, for gateways in the process of a test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dora.cluster.agent.link_port import LinkPort

HERE = "127.0.0.1"
_T = TypeVar("_T")


class ServedPort:
    """A link port in a thread; ``gateways``: dataflow id → path of the socket of its gateway."""

    def __init__(self, gateways: dict[str, str], wanted: int | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.link_port = LinkPort(wanted, lambda name: gateways.get(name, ""))
        self.port: int = self.call(lambda: self.link_port.open(HERE))
        self.endpoint = f"{HERE}:{self.port}"

    def call(self, work: Callable[[], _T]) -> _T:
        """Do something in the thread of the port, and let its tasks go on once."""

        async def call() -> _T:
            result = work()
            await asyncio.sleep(0)
            return result

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(60)

    def close(self) -> None:
        self.call(self.link_port.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def link_port(gateways: dict[str, str], wanted: int | None = None) -> Iterator[ServedPort]:
    """Serve a link port of loopback."""
    served = ServedPort(gateways, wanted)
    try:
        yield served
    finally:
        served.close()
