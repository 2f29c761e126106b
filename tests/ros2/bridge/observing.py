"""A dataflow and a process with a real rclpy that observes it, in a domain of their own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ros_flow import RosFlow
from ros_meeting import meeting, ros_python

from dora.ros2.rclpy.find import PYTHON_VARIABLE


class Observer:
    """Has the methods of ``Peer`` in ``rclpy_observer.py``."""

    def __init__(self, domain: int) -> None:
        script = Path(__file__).with_name("rclpy_observer.py")
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        place = {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            # Fast DDS leaves its shared memory behind when its process is killed.
            "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4",
        }
        self._process = subprocess.Popen(
            [str(ros_python()), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, **place},
        )
        self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process with rclpy has ended"
        return json.loads(line)

    def __getattr__(self, name: str) -> Any:
        def ask(**arguments: Any) -> Any:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([name, arguments]) + "\n")
            self._process.stdin.flush()
            return self._read()

        return ask

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(params=["dds", "rclpy"], name="flow")
def observed_flow(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runtime_root: str,  # noqa: ARG001
) -> Iterator[RosFlow]:
    """With ``dds``, Cyclone DDS has the topics, and rclpy the parameters."""
    with meeting(request.param, monkeypatch) as met:
        monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        monkeypatch.setenv(PYTHON_VARIABLE, str(ros_python()))
        flow = RosFlow(tmp_path, met)
        yield flow
        flow.close()


@pytest.fixture(name="observer")
def observer_of_flow(flow: RosFlow) -> Iterator[Observer]:
    found = Observer(flow.domain)
    yield found
    found.kill()
