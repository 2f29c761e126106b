"""Copy the folder of a dataflow to the machines of its nodes, and list the copies there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, cast

import msgspec

from dora.cluster.ssh.file import Cluster, Machine
from dora.cluster.ssh.folder import Entry, difference, scan_folder
from dora.cluster.ssh.receive import ExpectedFiles, Present
from dora.cluster.ssh.retention import Copy
from dora.cluster.ssh.scripts import list_copies, receive_copy
from dora.cluster.ssh.ssh import CountedReads, MachineFault, PipedScript, on_all, run
from dora.daemon.work import Work
from dora.dataflow.model import Dataflow
from dora.dataflow.problems import listed
from dora.errors import DoraError
from dora.wire.decoders import from_json


class Copied(msgspec.Struct, frozen=True):
    """Where the copy is on its machine, and how many files and bytes were sent."""

    folder: str
    sent: int
    size: int


def copy_name(folder: str) -> str:
    """Return the name of the copies of a folder: stable, and different for each folder."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", os.path.basename(folder)).strip("-") or "dataflow"
    origin = f"{socket.gethostname()}:{folder}"
    return f"{readable[:40]}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"


def copy_folder(
    machine: Machine, folder: str, files: Mapping[str, Entry], work: Work | None = None
) -> Copied:
    """Copy what has changed to a machine; raises `MachineFault`.

    Files of the last copy that are gone in the folder are removed. The bytes are added to ``work``.
    """
    with PipedScript(machine, receive_copy(machine, copy_name(folder))) as script:
        try:
            return _send(machine, script, folder, files, work or Work())
        except (BrokenPipeError, msgspec.DecodeError):
            script.close_stdin()
            raise script.fault() from None
        except OSError as error:
            why = (
                f"{error.filename}: {error.strerror}" if error.filename else "a file that has just changed"
            )
            raise MachineFault(machine, f"cannot copy {why}; try again") from None


def _send(
    machine: Machine, script: PipedScript, folder: str, files: Mapping[str, Entry], work: Work
) -> Copied:
    # No timeout: ssh ends by itself when the machine is silent (`ServerAliveInterval`).
    present = from_json(script.stdout.readline(), Present)
    changed, gone = difference(files, present.files)
    size = sum(files[path][0] for path in changed)
    if present.free is not None and size > present.free:
        raise MachineFault(
            machine,
            f"{size:,} bytes are to be copied to {present.folder}, and {present.free:,} are free there",
        )
    script.stdin.write(msgspec.json.encode(ExpectedFiles(dict(files), gone)) + b"\n")
    work.expect(size)
    _send_files(script.stdin, folder, changed, files, work)
    script.stdin.close()
    from_json(script.stdout.readline(), dict[str, Any])
    return Copied(present.folder, len(changed), size)


def _send_files(
    stream: IO[bytes], folder: str, paths: Sequence[str], files: Mapping[str, Entry], work: Work
) -> None:
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            with open(os.path.join(folder, path), "rb") as file:
                # As it is now: since the look at the folder, a program may have appended to its log.
                size, time_ns = _state(file)
                member = tarfile.TarInfo(path)
                member.size, member.mode = size, files[path][2]
                member.pax_headers = {"DORA.time": str(time_ns)}
                archive.addfile(member, cast(IO[bytes], CountedReads(file, work)))
                if _state(file) != (size, time_ns):  # `addfile` took the first bytes of a file that grows
                    raise OSError(errno.EAGAIN, "it has just changed", path)


def _state(file: IO[bytes]) -> tuple[int, int]:
    about = os.fstat(file.fileno())
    return about.st_size, about.st_mtime_ns


def with_copies(
    cluster: Cluster,
    dataflow: Dataflow,
    placed: Mapping[str, str],
    report: Callable[[str], None],
    work: Work,
) -> tuple[Dataflow, list[MachineFault]]:
    """Copy the folder of a dataflow to where it is needed; return the dataflow that runs in the copies.

    ``placed`` is node → machine. A node with a working directory of its own needs no copy. The bytes for
    all machines are added to ``work``. Raises `DoraError` for a machine that is not in the cluster file.
    """
    wanted = {placed[node.id] for node in dataflow.nodes if node.deploy.working_dir is None}
    machines = [machine for machine in cluster.machines if machine.id in wanted]
    if unknown := sorted(wanted - {machine.id for machine in machines}):
        raise DoraError(
            f"nodes are for {listed(unknown)}, and {cluster.file} does not say how to get there; add the "
            "machine, or tell with `working_dir` in `deploy` where the files of its nodes are"
        )
    files = scan_folder(dataflow.working_dir)
    copies, faults = on_all(
        machines, lambda machine: copy_folder(machine, dataflow.working_dir, files, work)
    )
    for machine, copied in copies:
        if copied.sent:
            report(f"{machine.id}: copied {copied.sent} file(s), {copied.size:,} bytes, to {copied.folder}")
    folders = {machine.id: copied.folder for machine, copied in copies}
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
        """Return who uses it, in words; ``names``: of dataflows, by UUID."""
        if self.dataflows:
            return ", ".join(dict.fromkeys(names.get(id, id) for id in self.dataflows))
        if self.running:
            return "(dora run)"
        if self.expected:
            return "(just copied)"
        return "(left by nodes)" if self.left_over else "(nobody)"


def copies_on(machines: Sequence[Machine], remove: bool) -> tuple[list[CopyOn], list[MachineFault]]:
    """Return the copies on the machines, or remove unused ones and return those; and what went wrong."""
    results, faults = on_all(machines, lambda machine: run(machine, list_copies(machine, remove)))
    rows = [
        CopyOn(machine=machine.id, **msgspec.structs.asdict(from_json(line, Copy)))
        for machine, output in results
        for line in output.splitlines()
    ]
    return rows, faults
