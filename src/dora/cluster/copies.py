"""Give the nodes of a dataflow their files on the machines that they run on, and show what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from dora.cluster.cluster_file import Cluster, Machine
from dora.cluster.folder import survey
from dora.cluster.kept import Copy
from dora.cluster.scripts import list_copies
from dora.cluster.send import copy_folder
from dora.cluster.ssh import MachineFault, on_all, run
from dora.dataflow.model import Dataflow
from dora.dataflow.report import listed
from dora.errors import DoraError
from dora.wire.decoders import from_json


def with_copies(
    cluster: Cluster, dataflow: Dataflow, placed: Mapping[str, str], tell: Callable[[str], None]
) -> tuple[Dataflow, list[MachineFault]]:
    """Copy the folder of a dataflow to where it is needed; return the dataflow that runs in the copies.

    ``placed`` is node → machine. A node with a working directory of its own needs no copy. Raises
    `DoraError` for a machine that the cluster file does not have.
    """
    wanted = {placed[node.id] for node in dataflow.nodes if node.deploy.working_dir is None}
    machines = [machine for machine in cluster.machines if machine.id in wanted]
    if unknown := sorted(wanted - {machine.id for machine in machines}):
        raise DoraError(
            f"nodes are for {listed(unknown)}, and {cluster.file} does not say how to get there; add the "
            "machine, or tell with `working_dir` in `deploy` where the files of its nodes are"
        )
    files = survey(dataflow.working_dir)
    folders: dict[str, str] = {}
    faults: list[MachineFault] = []
    for machine, copied in on_all(
        machines, lambda machine: copy_folder(machine, dataflow.working_dir, files)
    ):
        if isinstance(copied, MachineFault):
            faults.append(copied)
            continue
        folders[machine.id] = copied.folder
        if copied.sent:
            tell(f"{machine.id}: copied {copied.sent} file(s), {copied.size:,} bytes, to {copied.folder}")
    nodes = [
        msgspec.structs.replace(
            node, deploy=msgspec.structs.replace(node.deploy, working_dir=folders.get(placed[node.id]))
        )
        if node.deploy.working_dir is None
        else node
        for node in dataflow.nodes
    ]
    return msgspec.structs.replace(dataflow, nodes=tuple(nodes)), faults


class CopyOn(Copy, frozen=True, kw_only=True):
    """A copy on a machine of the cluster."""

    machine: str

    def users(self, names: Mapping[str, str]) -> str:
        """Return who uses it, in words; ``names`` are those of dataflows, by UUID."""
        if self.dataflows:
            return ", ".join(dict.fromkeys(names.get(id, id) for id in self.dataflows))
        if self.expected:
            return "(just copied)"
        return "(left by nodes)" if self.left_over else "(nobody)"


def copies_on(machines: Sequence[Machine], remove: bool) -> tuple[list[CopyOn], list[MachineFault]]:
    """Return the copies on the machines, or remove unused ones and return those; and what went wrong."""
    rows: list[CopyOn] = []
    faults: list[MachineFault] = []
    for machine, said in on_all(machines, lambda machine: run(machine, list_copies(machine, remove))):
        if isinstance(said, MachineFault):
            faults.append(said)
            continue
        for line in said.splitlines():
            copy = from_json(line, Copy)
            rows.append(CopyOn(machine=machine.id, **msgspec.structs.asdict(copy)))
    return rows, faults
