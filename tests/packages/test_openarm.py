"""The packages of OpenArm, a robot with two arms: an inference run, its web pages, simulation."""

from __future__ import annotations

import subprocess

import pytest
from place import Place, values
from ports import free_port

pytestmark = [pytest.mark.packages, pytest.mark.processes, pytest.mark.timeout(900)]


INFERENCE = """
nodes:
  - id: tick
    build: pip install dora-openarm-quitter
    path: dora-openarm-quitter
    inputs: {tick: dora/timer/millis/50, command: controller/command}
    outputs: [tick]
  - id: starter
    path: starter.py
    outputs: [command]
  - id: right
    build: pip install dora-openarm-dummy
    path: dora-openarm-dummy
    inputs: {request_position: tick/tick, move_position: executor/move_position_right}
    outputs: [position, status]
  - id: left
    path: dora-openarm-dummy
    inputs: {request_position: tick/tick, move_position: executor/move_position_left}
    outputs: [position, status]
  - id: camera
    build: pip install dora-openarm-dummy-camera
    path: dora-openarm-dummy-camera
    inputs: {tick: tick/tick}
    outputs: [image]
    env: {ENCODING: jpeg, IMAGE_WIDTH: 64, IMAGE_HEIGHT: 48}
  - id: observer
    build: pip install dora-openarm-observer
    path: dora-openarm-observer
    inputs:
      tick: tick/tick
      command: starter/command
      phase_classifier_result: classifier/result
      arm_right: right/position
      arm_left: left/position
      camera_wrist_right: camera/image
      camera_wrist_left: camera/image
      camera_head_left: camera/image
      camera_head_right: camera/image
      camera_ceiling: camera/image
    outputs: [observation]
  - id: quitter
    path: dora-openarm-quitter
    inputs: {observation: observer/observation, command: controller/command}
    outputs: [observation]
  - id: classifier
    build: pip install dora-openarm-dummy-classifier
    path: dora-openarm-dummy-classifier
    inputs: {observation: quitter/observation}
    outputs: [result]
  - id: policy
    build: pip install dora-openarm-dummy-policy-server
    path: dora-openarm-dummy-policy-server
    inputs: {observation: quitter/observation}
    outputs: [actions]
  - id: executor
    build: pip install dora-openarm-actions-executor
    path: dora-openarm-actions-executor
    inputs: {actions: policy/actions}
    outputs: [move_position_right, move_position_left]
  - id: controller
    build: pip install dora-openarm-inference-controller
    path: dora-openarm-inference-controller
    args: --timeout 3
    inputs:
      arm_right_status: right/status
      arm_left_status: left/status
      progress_tick: tick/tick
    outputs: [command]
  - id: recorder
    build: pip install dora-openarm-dataset-recorder
    path: dora-openarm-dataset-recorder
    args: --operation-type rollout --metadata-file metadata.yaml
    inputs:
      command: controller/command
      arm_right_action: executor/move_position_right
      arm_left_action: executor/move_position_left
      arm_right_observation: right/position
      arm_left_observation: left/position
      camera_head_left: camera/image
  - id: receiver
    path: receiver.py
    inputs: {command: controller/command, phase: classifier/result}
"""

METADATA = """
tasks: [{prompt: pick the cube}, {prompt: put it back}]
equipment:
  embodiments: {arms: {id: OpenArm, version: "2.0"}}
  perceptions: {cameras: {head_left: {}}}
"""

REPLAY = """
nodes:
  - id: replayer
    build: pip install dora-openarm-dataset-replayer
    path: dora-openarm-dataset-replayer
    outputs:
      - arm_right_action
      - arm_left_action
      - arm_right_observation
      - arm_left_observation
      - camera_head_left
    env: {DATASET: dataset}
  - id: receiver
    path: receiver.py
    inputs: {position: replayer/arm_right_observation, image: replayer/camera_head_left}
"""


def test_an_inference_run_of_openarm_is_recorded_and_replayed(place: Place) -> None:
    """Twelve nodes in a loop of observation, policy and motion, until the time for the task is over."""
    place.write(
        "starter.py",
        "import pyarrow as pa\n"
        "from dora import Node\n"
        "Node().send_output('command', pa.array(['started']))\n",
    )
    place.write("metadata.yaml", METADATA)
    place.build(INFERENCE)
    received = place.run()
    assert values(received, "command") == [["start"], ["fail"], ["quit"]]
    assert values(received, "phase")[0][0]["confidence"] == pytest.approx(0.9)
    assert "frequencies:" in (place.folder / "dataset" / "metadata.yaml").read_text()
    images = len(list((place.folder / "dataset").glob("episodes/0/cameras/head_left/*.jpeg")))
    place.build(REPLAY)
    received = place.run()
    assert len(values(received, "image")) == images > 0
    assert len(values(received, "position")[0]) == 8


# Stands for a policy: answers each observation with two positions of both arms.
POLICY = """
import json, socket, sys
import pyarrow as pa

def answer(connection):
    with connection.makefile("rw") as stream:
        for line in stream:
            request = json.loads(line)
            with pa.memory_map(request["data_path"].replace("/openeval", sys.argv[2])) as file:
                identity = pa.ipc.open_file(file).read_all()["id"].to_pylist()
            reply = {"interval": 1000 * identity[0], "positions": [[0.5] * 16] * 2}
            stream.write(json.dumps(reply) + "\\n")
            stream.flush()
"""

LISTENS = """
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    print("ready", flush=True)
    answer(server.accept()[0])
"""

DOCKER = """#!{python}
{policy}
[volume] = [word.split("=")[1].split(":")[0] for word in sys.argv if word.endswith("/openeval:ro")]
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[-1].replace("/openeval", volume))
    sys.argv[2] = volume
    answer(client)
"""

OBSERVER = """
import pyarrow as pa
from dora import Node
node = Node()
for number in range(3):
    columns = [pa.array([number]), pa.array([[0.0] * 16])]
    observation = pa.StructArray.from_arrays(columns, ["id", "position"])
    # With a timestamp of its own: both write the metadata as JSON, which cannot hold a datetime.
    node.send_output("observation", observation, {"timestamp": number})
"""


def test_policy_servers_of_openarm(place: Place) -> None:
    """One on a socket, one in a container: `docker` is a stub that runs the policy itself."""
    place.write("policy.py", POLICY + LISTENS)
    place.write("observer.py", OBSERVER)
    (place.folder / "bin").mkdir()
    place.write("bin/docker", DOCKER.format(python=place.program("python"), policy=POLICY))
    (place.folder / "bin" / "docker").chmod(0o755)
    place.build(
        """
nodes:
  - {id: observer, path: observer.py, outputs: [observation]}
  - id: local
    build: pip install dora-openarm-local-policy-server
    path: dora-openarm-local-policy-server
    args: --socket policy.sock
    inputs: {observation: observer/observation}
    outputs: [actions]
    python: {version: "3.13"}
  - id: docker
    build: pip install dora-openarm-docker-policy-server
    path: dora-openarm-docker-policy-server
    args: --image policy
    env: {PATH: BIN}
    inputs: {observation: observer/observation}
    outputs: [actions]
    python: {version: "3.13"}
  - id: receiver
    path: receiver.py
    inputs: {local: local/actions, docker: docker/actions}
""".replace("BIN", str(place.folder / "bin"))
    )
    policy = place.popen("python", "policy.py", "policy.sock", ".", stdout=subprocess.PIPE)
    try:
        assert policy.stdout is not None and policy.stdout.readline() == "ready\n"
        received = place.run()
    finally:
        policy.kill()
        policy.wait()
    assert values(received, "local") == values(received, "docker") == [[[0.5] * 16] * 2] * 3
    assert [event["metadata"]["interval"] for event in received if event["id"] == "local"] == [
        0,
        1000,
        2000,
    ]


# Without their drivers, which are compiled from a repository: stubs take their place.
TELEOPERATION = """
nodes:
  - {id: user, path: user.py, outputs: [done]}
  - id: tick
    build: pip install dora-openarm-quitter
    path: dora-openarm-quitter
    inputs: {tick: dora/timer/millis/20, command: collection/command}
    outputs: [tick]
  - id: leader
    build: pip install dora-openarm-ker
    path: dora-openarm-ker
    inputs: {tick: tick/tick}
    outputs: [follower_position_right, follower_position_left, metadata]
    env: {PYTHONPATH: drivers}
  - id: right
    build: pip install --no-deps dora-openarm
    path: dora-openarm
    args: --side right --no-align
    inputs:
      command: collection/arm_command
      request_state: tick/tick
      move_position: leader/follower_position_right
    outputs: [position, state, status]
    env: {PYTHONPATH: drivers}
  - id: left
    path: dora-openarm
    args: --side left
    inputs:
      command: collection/arm_command
      request_state: tick/tick
      move_position: leader/follower_position_left
    outputs: [position, state, status]
    env: {PYTHONPATH: drivers}
  - id: lifter
    build: pip install --no-deps dora-openarm-cell-lifter
    path: dora-openarm-cell-lifter
    inputs: {tick: tick/tick}
    outputs: [elevation_observation, elevation_action]
    env: {PYTHONPATH: drivers}
  - id: camera
    build: pip install dora-openarm-dummy-camera
    path: dora-openarm-dummy-camera
    inputs: {tick: tick/tick}
    outputs: [image]
    env: {ENCODING: jpeg, IMAGE_WIDTH: 64, IMAGE_HEIGHT: 48}
  - id: collection
    build: pip install dora-openarm-data-collection-ui
    path: dora-openarm-data-collection-ui
    args: --metadata-file metadata.yaml --port PORT
    inputs:
      arm_status_right: right/status
      arm_status_left: left/status
      arm_state_right: right/state
      arm_state_left: left/state
      camera_ceiling: camera/image
      ker_metadata: leader/metadata
      ker_position: leader/follower_position_right
    outputs: [command, arm_command]
  - id: recorder
    build: pip install dora-openarm-dataset-recorder
    path: dora-openarm-dataset-recorder
    args: --metadata-file metadata.yaml
    inputs:
      command: collection/command
      arm_right_action: leader/follower_position_right
      arm_right_observation: right/state
      elevation_observation: lifter/elevation_observation
      elevation_action: lifter/elevation_action
      camera_ceiling: camera/image
      ker_metadata: leader/metadata
  - id: receiver
    path: receiver.py
    inputs: {command: collection/command, status: right/status}
"""

# Presses the buttons of a web page, as a person does: not before it shows what they are for.
USER = """
import json, re, time, urllib.parse, urllib.request
from dora import Node

def ask(path, **form):
    data = urllib.parse.urlencode(form).encode() if form else None
    return urllib.request.urlopen("http://127.0.0.1:PORT" + path, data, timeout=20).read().decode()

def press(path, **form):
    return ask(path, **(form or {"button": path}))

def wait(path, text):
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen("http://127.0.0.1:PORT" + path, timeout=20) as page:
                while line := page.readline().decode():
                    if text in line.replace(": ", ":"):
                        return
        except OSError:
            pass
        assert time.monotonic() < deadline, text
        time.sleep(0.05)

node = Node()
wait("/", "<title>")
"""


def test_a_data_collection_of_openarm_by_its_web_page(place: Place) -> None:
    """The arms, the lifter and the leader are stubs of their drivers."""
    port = str(free_port())
    place.write(
        "user.py",
        (
            USER
            + """
wait("/ker-stats", '"present":true')
wait("/arm-health", '"state":"OK"')
press("/start")
time.sleep(0.5)  # of motion that is recorded
press("/success")
press("/start")
press("/cancel")
press("/quit")
"""
        ).replace("PORT", port),
    )
    place.write("metadata.yaml", METADATA)
    place.drivers("openarm_driver.py", "openarm_can.py", "openarm_ker")
    place.build(TELEOPERATION.replace("PORT", port))
    received = place.run()
    assert values(received, "command") == [["start"], ["success"], ["start"], ["cancel"], ["quit"]]
    assert values(received, "status") == [["stopped"], ["started"]]
    assert "right_arm has no power" in place.output and "the lifter is off" in place.output
    rows = place.python(
        "import pyarrow.parquet as pq\n"
        "obs = pq.read_table('dataset/episodes/0/obs/arms/right/state.parquet')\n"
        "lifter = pq.read_table('dataset/episodes/0/obs/lifter/elevation.parquet')\n"
        "print(obs.column_names, round(obs['qpos'][-1].as_py()[0], 3), obs.num_rows > 5)\n"
        "print(lifter.num_rows > 5)\n"
    )
    assert rows == "['timestamp', 'qpos', 'qvel', 'qtorque'] 0.175 True\nTrue\n"


EVALUATION = """
nodes:
  - {id: user, path: user.py, outputs: [done]}
  - id: right
    build: pip install --no-deps dora-openarm
    path: dora-openarm
    inputs: {command: evaluation/arm_command}
    outputs: [status]
    env: {PYTHONPATH: drivers}
  - id: left
    path: dora-openarm
    args: --side left
    inputs: {command: evaluation/arm_command}
    outputs: [status]
    env: {PYTHONPATH: drivers}
  - id: evaluation
    build: pip install dora-openarm-evaluation-ui
    path: dora-openarm-evaluation-ui
    args: --metadata-file metadata.yaml --port PORT
    inputs: {arm_status_right: right/status, arm_status_left: left/status}
    outputs: [arm_command, task_prompt]
  - id: receiver
    path: receiver.py
    inputs: {command: evaluation/arm_command, prompt: evaluation/task_prompt}
"""


def test_an_evaluation_of_openarm_by_its_web_page(place: Place) -> None:
    port = str(free_port())
    place.write(
        "user.py",
        (
            USER
            + """
press("/set-task", task_index=1)
press("/start")
wait("/state", '"collecting":true')
press("/fail", note="dropped it")
press("/quit")
"""
        ).replace("PORT", port),
    )
    place.write("metadata.yaml", METADATA)
    place.drivers("openarm_driver.py")
    place.build(EVALUATION.replace("PORT", port))
    received = place.run()
    assert values(received, "command") == [["start"], ["stop"], ["quit"]]
    assert values(received, "prompt") == [["put it back"]] * 3
    assert "note: dropped it" in (place.folder / "eval_metadata.yaml").read_text()


SIMULATION = """
nodes:
  - {id: ticker, path: ticker.py, outputs: [tick]}
  - id: target
    path: target.py
    inputs: {tick: ticker/tick}
    outputs: [position]
  - id: forward
    build: pip install dora-openarm-kinematics
    path: dora-openarm-fk
    inputs: {position_right: target/position, position_left: target/position}
    outputs: [pose_right, pose_left, status]
  - id: inverse
    path: dora-openarm-ik
    inputs: {target_right: forward/pose_right, target_left: forward/pose_left}
    outputs: [position_right, position_left, status]
  - id: simulation
    build: pip install dora-openarm-mujoco
    path: dora-openarm-mujoco
    inputs:
      move_position_right: inverse/position_right
      move_position_left: inverse/position_left
      request_state: ticker/tick
    outputs: [status, state_right, state_left]
  - id: receiver
    path: receiver.py
    inputs: {pose: forward/pose_right, solved: inverse/position_right, state: simulation/state_right}
"""


def test_openarm_moves_in_mujoco_by_its_kinematics(place: Place) -> None:
    place.write(
        "target.py",
        "import pyarrow as pa\n"
        "from dora import Node\n"
        "node = Node()\n"
        "for event in node:\n"
        "    if event['type'] == 'INPUT':\n"
        "        node.send_output('position', pa.array([0.1] * 8, pa.float32()))\n",
    )
    place.build(SIMULATION)
    received = place.run()
    assert len(values(received, "pose")) == 20 and len(values(received, "pose")[0][0]["pose"]) == 8
    assert len(values(received, "solved")[-1][0]["qpos"]) == 8
    states = [value[0]["qpos"] for value in values(received, "state")]
    assert len(states) == 20 and states[0] != states[-1]


CLASSIFIER = """
nodes:
  - {id: ticker, path: ticker.py, outputs: [tick]}
  - id: camera
    build: pip install dora-openarm-dummy-camera
    path: dora-openarm-dummy-camera
    inputs: {tick: ticker/tick}
    outputs: [image]
    env: {ENCODING: jpeg, IMAGE_WIDTH: 64, IMAGE_HEIGHT: 48}
  - id: classifier
    build: |
      pip install --no-deps dora-openarm-classifier
      pip install httpx pillow
    path: dora-openarm-classifier
    args: --question "Is it done?" --server-url http://127.0.0.1:PORT --window 1
    inputs: {image: camera/image}
    outputs: [result]
    env: {PYTHONPATH: drivers}
  - {id: receiver, path: receiver.py, inputs: {result: classifier/result}}
"""

# Stands for the package's own server, which needs the weights of a model.
MODEL_SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"status": "ok"})

    def do_POST(self):
        form = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({"score": 0.75 if b"Is it done?" in form and b"JFIF" in form else 0.0})

    def reply(self, answer):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


def test_the_classifier_of_openarm_asks_a_stub_of_its_model_server(place: Place) -> None:
    port = str(free_port())
    place.write("model_server.py", MODEL_SERVER)
    place.drivers("torch.py", "transformers.py", "qwen_vl_utils.py")
    place.build(CLASSIFIER.replace("PORT", port))
    server = place.popen(
        "python", "model_server.py", port, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        received = place.run()
    finally:
        server.kill()
        server.wait()
    assert values(received, "result")[-1] == [0.75]
    assert "SUCCESS" in received[-1]["metadata"].values()
