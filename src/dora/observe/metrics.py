"""Metrics of running dataflows, read from outside, so no node is affected."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dora.daemon.client import DaemonClient, name_of, running
from dora.errors import DoraError
from dora.observe.latency import PathReader
from dora.observe.load import LoadMeter
from dora.observe.rates import Counters
from dora.observe.tap_session import inspect
from dora.transport.board import Board
from dora.wire.metrics import DataflowMetrics, LinkMetrics, NetworkMetrics, NodeMetrics, OutputMetrics


def collect_metrics(run: DaemonClient) -> DataflowMetrics:
    """Return the counters of a dataflow so far; raises `ConnectError` if it ends."""
    inspection = inspect(run)
    loads = LoadMeter().measure(node.pid for node in inspection.nodes if node.pid is not None)
    try:
        board = Board.open(inspection.board)
    except OSError:
        raise DoraError("the dataflow has just ended") from None
    try:
        reading = Counters(inspection, board.words).read()
        paths = PathReader(inspection.board, board.words).total(inspection)
    finally:
        board.close()
    nodes = []
    for node in inspection.nodes:
        load = loads.get(node.pid) if node.pid is not None else None
        nodes.append(
            NodeMetrics(
                node.id,
                node.status,
                {
                    "cpu_seconds": load.cpu_seconds if load is not None else 0.0,
                    "memory": load.memory if load is not None else 0,
                    **node.counts,
                },
            )
        )
    outputs = [
        OutputMetrics(
            node.id, output.id, dict(zip(("messages", "bytes"), reading.outputs[output.slot], strict=True))
        )
        for node in inspection.nodes
        for output in node.outputs
        if not output.text
    ]
    links = []
    for link in inspection.links:
        counts = reading.links[link.slot]
        links.append(
            LinkMetrics(
                link.producer,
                link.consumer,
                {
                    "received": counts.received,
                    "dropped": counts.dropped,
                    "waiting": counts.waiting or 0,
                    **counts.counts,
                },
            )
        )
    networks = [
        NetworkMetrics(inspection.machine, target, network.figures)
        for target, network in reading.networks.items()
    ]
    name = name_of(run.description)
    return DataflowMetrics(inspection.dataflow_id, name, nodes, outputs, links, paths, networks)


def collect_all_metrics(
    dataflow_ids: Iterable[str], on_silent: Callable[[str], None] = lambda _: None
) -> list[DataflowMetrics]:
    """Return the metrics of those dataflows that run on this machine; leave out the others.

    ``on_silent`` as for `running`.
    """
    wanted = set(dataflow_ids)
    found = []
    for run in running(on_silent):
        with run:
            if run.description.dataflow_id in wanted:
                try:
                    found.append(collect_metrics(run))
                except DoraError:
                    continue  # it is just ending
    return found
