"""The guardian: a tiny process that cleans up if the daemon dies.

A daemon that dies, even by SIGKILL, cannot end its nodes and remove its shared memory. So every run has
a guardian, from before its first file and its first process until after its last (`dora.daemon.watchdog`).
When its pipe ends, the daemon is dead: it kills the processes of the run and removes its files.

Processes are found by the variable ``DORA_RUN_ID`` in their environment, which children inherit, so
no process is missed that was started while the daemon died. But a process may overwrite its environment,
to show a name of its own for example, and without ``/proc`` (macOS) no environment can be read. So the
process groups that the daemon wrote into the pipe are killed as well.

Run by path with ``python -S -E``, this file needs the standard library only and starts in about
15 ms. The daemon imports its functions to clean up at a normal end, and after runs whose guardian
was killed as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator

RUN_ID = "DORA_RUN_ID"
FORGET = "-"  # a line to the guardian: forget the process groups so far
KILL_TIMEOUT = 5.0  # seconds; a process that waits for a broken disk cannot be killed
# Begin the names of black boxes in shared memory whose runs were killed: until the first attempt to save
# them has succeeded, and from the second attempt on.
RESCUED, RETRIED = "dora-box-", "dora-again-"
_HEX = frozenset("0123456789abcdef")


def marked_processes(run_id: str) -> list[int]:
    """Return the ids of all processes of a run, except this one; empty where there is no ``/proc``.

    ``run_id``: its last 12 digits, which name the files of the run, are enough.
    """
    return [pid for pid, mark in all_marked_processes() if mark.endswith(run_id)]


def all_marked_processes() -> Iterator[tuple[int, str]]:
    """Yield the id of each process of a run, except this one, with the id of the run."""
    name_of_marker = f"{RUN_ID}=".encode()
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in names:
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:  # ended meanwhile, or another user's
            continue
        for item in variables:
            if item.startswith(name_of_marker):
                yield int(name), os.fsdecode(item[len(name_of_marker) :])
                break


def describe_group(leader: int) -> str:
    """Return a process group as text: its id, and the start time of its leader ("" without ``/proc``).

    The id alone may be another group's later.
    """
    try:
        with open(f"/proc/{leader}/stat", "rb") as file:
            start_time = file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        start_time = ""
    return f"{leader}:{start_time}"


def leader_of(group: str) -> int | None:
    """Return the leader of a process group from `describe_group`, None if it is gone."""
    leader = int(group.partition(":")[0])
    return leader if describe_group(leader) == group else None


def groups_of(lines: Iterable[str]) -> list[str]:
    """Return the process groups that lines name; the line `FORGET` takes back those before it.

    >>> groups_of(["5:100\\n", "-\\n", "7:130\\n"])
    ['7:130']
    """
    groups: list[str] = []
    for line in lines:
        if (group := line.strip()) == FORGET:
            groups.clear()
        else:
            groups.append(group)
    return groups


def kill_run(run_id: str, groups: Iterable[str] = ()) -> None:
    """Kill every process of a run, until none is left (at most `KILL_TIMEOUT` seconds).

    ``groups`` are process groups of the run that are known otherwise, from `describe_group`.
    """
    for group in groups:
        if (leader := leader_of(group)) is not None:
            _kill(os.killpg, leader)
    deadline = time.monotonic() + KILL_TIMEOUT
    looks = 0  # in a row without finding any
    while looks < 2 and time.monotonic() < deadline:
        found = marked_processes(run_id)
        for pid in found:
            _kill(os.kill, pid)
        looks = 0 if found else looks + 1
        # A process that is just executing a new program has no environment for a moment.
        time.sleep(0.003)


def _kill(function: Callable[[int, int], None], target: int) -> None:
    try:
        function(target, signal.SIGKILL)
    except OSError:
        pass  # it has ended meanwhile


def box_of(prefix: str) -> str:
    """Return the folder of a run's black box."""
    return f"/dev/shm/{prefix}box"


def rescue_black_box(prefix: str) -> None:
    """Start a process that saves the black box of a killed run, and removes it.

    It is moved out of the run's files first, so these can be removed at once.
    """
    save_black_box(box_of(prefix), f"/dev/shm/{RESCUED}{prefix.strip('_')}")


def save_black_box(box: str, kept: str) -> None:
    """Move a black box, and start a process that saves it there, and removes it if that succeeds."""
    if not _is_own(box) or os.path.islink(box) or not os.path.isdir(box):
        return
    order = f'{{"folder": "{kept}", "reason": "killed", "dead": true}}'
    try:
        os.rename(box, kept)
        subprocess.Popen(
            [sys.executable, "-m", "dora.recording.save_black_box", order],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != RUN_ID},
            start_new_session=True,
            cwd="/",
        )
    except OSError:
        pass  # the next start removes it


def remove_run_files(run_dir: str, prefix: str) -> None:
    """Remove a run's directory and its shared memory objects; whatever is gone already is fine.

    A directory with a name that does not fit, or a link to one, stays.
    """
    name = os.path.basename(run_dir)
    if len(name) != 12 or set(name) - _HEX or prefix != f"dora_{name}_" or os.path.islink(run_dir):
        return
    remove_shared_memory(prefix)
    # The lock goes last: a run whose lock exists is still to be removed.
    _empty(run_dir, keep="lock")
    _try(os.unlink, f"{run_dir}/lock")
    _try(os.rmdir, run_dir)


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory objects of a run, and its folders among them.

    A folder that another user has put there under such a name stays: its links might lead root elsewhere.
    """
    if os.path.isdir("/dev/shm"):
        objects = [name for name in os.listdir("/dev/shm") if name.startswith(prefix)]
        # The board goes last: while it exists, the files of a dead run can be found.
        for name in sorted(objects, key=lambda name: name.endswith("board")):
            path = f"/dev/shm/{name}"
            if not _is_own(path):
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                _empty(path)
                _try(os.rmdir, path)
            else:
                _try(os.unlink, path)


def _is_own(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.geteuid()
    except OSError:
        return False


def _empty(folder: str, keep: str = "") -> None:
    """Remove what is in a folder, apart from one file; links are not followed."""
    for parent, directories, files in os.walk(folder, topdown=False):
        for name in files:
            if parent != folder or name != keep:
                _try(os.unlink, f"{parent}/{name}")
        for name in directories:
            path = f"{parent}/{name}"
            _try(os.unlink if os.path.islink(path) else os.rmdir, path)


def _try(function: Callable[[str], None], path: str) -> None:
    try:
        function(path)
    except OSError:
        pass


def main(run_id: str, run_dir: str, prefix: str, *registered: str) -> None:
    """Wait for the end of standard input, which tells more process groups, and clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the daemon is dead: nobody else cleans up
    kill_run(run_id, groups_of((*registered, *sys.stdin)))  # first: nodes that live may make more files
    rescue_black_box(prefix)  # before the next line removes it
    remove_run_files(run_dir, prefix)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
