"""A template forks the process of the next node ahead, while nothing is to be done."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from waiting import TIMEOUT

from dora.daemon.template.client import ANSWER_TIMEOUT

pytestmark = pytest.mark.processes

# Each of its processes prints its id and the way it was started, and then the process that was forked ahead
# meanwhile. The second one kills that process, the third one stops it. So the fourth one starts plainly; it
# has the stopped one go on, and kills the template.
NODE = f"""
    import os
    import signal
    import time
    from pathlib import Path

    from dora import Node

    def wait_until(condition):
        deadline = time.monotonic() + {TIMEOUT}
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def children(pid):
        return {{int(child) for child in Path(f"/proc/{{pid}}/task/{{pid}}/children").read_text().split()}}

    def runs(pid):
        try:
            return Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def next_of_template():
        wait_until(lambda: children(template) - {{os.getpid(), stopped}})
        return (children(template) - {{os.getpid(), stopped}}).pop()

    parent = Path(f"/proc/{{os.getppid()}}/cmdline").read_text()
    way = "forked" if "dora/daemon/template" in parent else "plain"
    notes = Path("stopped")
    template, stopped = map(int, notes.read_text().split()) if notes.exists() else (os.getppid(), 0)
    count = Path("count")
    number = int(count.read_text()) + 1
    count.write_text(str(number))
    print(os.getpid(), way, end=" ")
    Node()
    spare = next_of_template()
    if number == 2:
        os.kill(spare, signal.SIGKILL)
    elif number == 3:
        os.kill(spare, signal.SIGSTOP)
        notes.write_text(f"{{template}} {{spare}}")
    elif number == 4:
        os.kill(stopped, signal.SIGCONT)
        wait_until(lambda: not runs(stopped))
        os.kill(template, signal.SIGKILL)
        wait_until(lambda: not runs(spare))
    print(spare)
    raise SystemExit(number < 4)
"""


@pytest.mark.usefixtures("runtime_root")
def test_the_next_process_is_forked_ahead(tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(textwrap.dedent(NODE))
    (tmp_path / "count").write_text("0")
    again = {"restart_policy": "on-failure", "restart_delay": 0.01}
    nodes = [{"id": "again", "path": "again.py", **again}]
    (tmp_path / "dataflow.yml").write_text(yaml.safe_dump({"nodes": nodes}))
    done = subprocess.run(
        [sys.executable, "-m", "dora", "run", "dataflow.yml", "--progress", "off", "--preload"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=ANSWER_TIMEOUT,  # a stopped process is noticed earlier
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [line for line in done.stdout.splitlines() if "stdout again:" in line]
    lines = [line.partition("again:")[2].split() for line in printed]
    assert [way for _, way, _ in lines] == ["forked", "forked", "forked", "plain"]
    (first, _, spare), (second, _, killed), (third, _, _), _ = lines
    assert second == spare, "it was forked while the first process ran"
    assert third not in {first, second, killed}
