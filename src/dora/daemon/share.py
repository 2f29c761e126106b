"""The part of a dataflow that one machine runs, and how it hears of the parts of the others."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dora.supervise.status import PeerStatus
from dora.wire.control import RemoteConfig


class PartitionOptions(msgspec.Struct, frozen=True):
    """What a machine has to know to run its part."""

    machine: str
    machines: dict[str, str]  # node id → machine, of all nodes
    remote: RemoteConfig
    births: dict[str, int] = {}  # as in `dora.dataflow.links.Place`


class Peers:
    """The supervisors of the other machines: they are told what has changed here, and nothing twice."""

    def __init__(self, send: Callable[[PeerStatus], None]) -> None:
        self._send = send
        self._last: PeerStatus | None = None

    def tell(self, status: PeerStatus, sent: Callable[[str], dict[str, int]]) -> None:
        """Tell how the nodes of this machine are. ``sent`` gives how much a node has sent."""
        if status == self._last:
            return
        self._last = status
        nodes = {
            node_id: msgspec.structs.replace(item, sent=sent(node_id)) if item.outputs_closed else item
            for node_id, item in status.nodes.items()
        }
        self._send(msgspec.structs.replace(status, nodes=nodes))
