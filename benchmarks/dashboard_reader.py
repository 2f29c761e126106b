"""A dashboard with a page open on it, for `benchmarks.looking`.

``python -m benchmarks.dashboard_reader TOPIC`` serves the dashboard of the only dataflow that runs. It is
its browser, too: it asks for a preview of the topic and draws nothing, so no browser is faster.
SIGINT ends it.
"""

from __future__ import annotations

import sys
import time

import msgspec
from websockets.sync.client import connect

from dora.cluster.dashboard.local import LocalDashboard, LocalRun
from dora.daemon.client import running

PATIENCE_S = 20.0


def main(topic: str) -> None:
    """Read until interrupted."""
    (run,) = running()
    with run:
        found = run.description
    dashboard = LocalDashboard()
    try:
        dashboard.start(
            LocalRun(
                found.dataflow_id, "looked-at", found.file, "", found.nodes, time.time(), dashboard.ticket
            )
        )
        address = dashboard.address.partition("open?")[0].replace("http:", "ws:")
        page = connect(
            f"{address}dashboard/{found.dataflow_id}/live",
            additional_headers={"Authorization": f"Bearer {dashboard.ticket}"},
            proxy=None,
            max_size=None,
            open_timeout=PATIENCE_S,
        )
        with page:
            page.send(msgspec.json.encode({"type": "look", "topics": [topic]}).decode())
            for message in page:
                if message == "{}":  # the delivery is complete
                    page.send('{"type": "next"}')
    except KeyboardInterrupt:
        pass
    finally:
        dashboard.close()


if __name__ == "__main__":
    main(sys.argv[1])
