"""The dashboard of a coordinator: all its dataflows, running and ended."""

from __future__ import annotations

import msgspec

from dora.cluster.coordinator.api import Pages
from dora.cluster.coordinator.coordinator import Coordinator
from dora.cluster.dashboard.pages import PUBLIC_PATHS, Dashboard, Subject
from dora.cluster.http.auth import Keys
from dora.cluster.protocol import ACTIVE, DEFAULT_MACHINE
from dora.dataflow.graph import graph_of
from dora.dataflow.model import Dataflow
from dora.wire.decoders import from_plain


def make_pages(coordinator: Coordinator, keys: Keys) -> Pages:
    """Return the pages of a coordinator, which these keys open."""

    def find(wanted: str) -> Subject:
        view = coordinator.dataflow(wanted)

        def graph() -> bytes:
            dataflow = from_plain(coordinator.spec(view.uuid).dataflow, Dataflow)
            return msgspec.json.encode(graph_of(dataflow))

        running = view.status in ACTIVE
        return Subject(
            dataflow_id=view.uuid,
            name=view.name,
            file=view.file,
            log_directory=view.log_directory,
            running=running,
            graph=graph,
            machines=tuple(view.machines),
            placed=coordinator.spec(view.uuid).machines if running else {},
            here=DEFAULT_MACHINE if coordinator.fleet.is_local(DEFAULT_MACHINE) else "",
        )

    return Pages(Dashboard(find, keys, coordinator.observe).routes(), PUBLIC_PATHS)
