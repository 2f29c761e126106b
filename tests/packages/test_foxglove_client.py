"""Foxglove's own client for JavaScript reads what `dora run --foxglove` serves: `@foxglove/ws-protocol`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ports import free_port
from waiting import TIMEOUT

pytestmark = [
    pytest.mark.packages,
    pytest.mark.processes,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node.js and npm"),
]

ARM = """
    import pyarrow as pa
    from dora import Node

    turn = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    pose = {"translation": {"x": 1.0, "y": 2.0, "z": 3.0}, "rotation": turn}
    with Node() as node:
        for event in node:
            if event["type"] == "INPUT":
                frames = {"parent_frame_id": "base", "child_frame_id": "hand"}
                node.send_output("hand", pa.array([pose]), frames)
    """
FLOW = """
    nodes:
      - {id: camera, path: dora-camera, outputs: [image], parameters: {source: pattern}}
      - {id: arm, path: arm.py, inputs: {tick: dora/timer/hz/10}, outputs: [hand], parameters: {gain: 0.5}}
    """
# Prints the schema of each topic that has shown ten messages, and the parameters.
CLIENT = """
    import protocol from "@foxglove/ws-protocol";
    import WebSocket from "ws";

    const socket = new WebSocket(process.argv[2], ["foxglove.sdk.v1"]);
    const client = new protocol.FoxgloveClient({ws: socket});
    const channels = {}, counts = {}, found = {};
    client.on("advertise", (advertised) => {
      for (const channel of advertised) channels[client.subscribe(channel.id)] = channel;
    });
    client.on("message", ({subscriptionId}) => {
      const {topic, schemaName} = channels[subscriptionId];
      counts[topic] = (counts[topic] ?? 0) + 1;
      if (counts[topic] === 10) found[topic] = schemaName;
      if (Object.keys(found).length === 2) client.getParameters([], "all");
    });
    client.on("parameterValues", ({parameters}) => {
      for (const {name, value} of parameters) found[name] = value;
      console.log(JSON.stringify(found));
      process.exit(0);
    });
    """


def test_the_client_of_foxglove_reads_images_transforms_and_parameters(tmp_path: Path) -> None:
    for name, text in {"arm.py": ARM, "flow.yml": FLOW, "client.mjs": CLIENT}.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    install = ["npm", "install", "--silent", "@foxglove/ws-protocol@0.8.0", "ws@8"]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=300)
    address = f"127.0.0.1:{free_port()}"
    run = subprocess.Popen(
        [sys.executable, "-m", "dora", "run", "--foxglove", "flow.yml"],
        cwd=tmp_path,
        env={**os.environ, "DORA_FOXGLOVE_ADDRESS": address},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert run.stderr is not None
        next(line for line in run.stderr if address in line)
        client = ["node", "client.mjs", f"ws://{address}"]
        done = subprocess.run(client, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    finally:
        run.terminate()
        run.communicate(timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {
        "camera/image": "foxglove.RawImage",
        "arm/hand": "foxglove.FrameTransform",
        "camera/source": "pattern",
        "arm/gain": 0.5,
    }
