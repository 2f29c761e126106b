"""The packages with which a person moves OpenArm from a browser, which is one in Python here."""

from __future__ import annotations

import pytest
from certificates import certify
from place import Place, values
from ports import free_port

pytestmark = [pytest.mark.packages, pytest.mark.processes, pytest.mark.timeout(900)]

# WebRTC with a channel for input, and the pictures of the camera.
BROWSER = """
import asyncio, json, ssl, sys, urllib.request
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from dora import Node

def post(url, offer):
    data = json.dumps({"sdp": offer.sdp, "type": offer.type}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30, context=ssl._create_unverified_context()) as reply:
        return json.load(reply)

async def browse(url, label, act):
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    channel = peer.createDataChannel(label)
    opened, told, controls = asyncio.Event(), asyncio.Event(), []
    channel.on("open", opened.set)

    @peer.on("datachannel")
    def found(control):
        controls.append(control)
        control.on("message", lambda text: told.set())

    video = peer.addTransceiver("video", direction="recvonly").receiver
    await peer.setLocalDescription(await peer.createOffer())
    answer = None
    while answer is None:  # until the page is there, or dora stops this node
        try:
            answer = await asyncio.to_thread(post, url, peer.localDescription)
        except OSError:
            await asyncio.sleep(0.1)
    await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
    async with asyncio.timeout(60):
        await opened.wait()
        await told.wait()
        frame = await video.track.recv()
        print("picture", frame.width, frame.height, flush=True)
    await act(channel, controls[0])
    await asyncio.sleep(0.3)
    await peer.close()

node = Node()
"""

KEYBOARD = """
nodes:
  - {id: browser, path: browser.py, outputs: [done]}
  - id: tick
    build: pip install dora-openarm-quitter
    path: dora-openarm-quitter
    inputs: {tick: dora/timer/millis/50, command: keyboard/command}
    outputs: [tick]
  - id: camera
    build: pip install dora-openarm-dummy-camera
    path: dora-openarm-dummy-camera
    inputs: {tick: tick/tick}
    outputs: [image]
    env: {ENCODING: jpeg, IMAGE_WIDTH: 64, IMAGE_HEIGHT: 48}
  - id: keyboard
    build: pip install dora-openarm-keyboard
    path: dora-openarm-keyboard
    args: --port PORT
    inputs: {image: camera/image}
    outputs: [pose_right, pose_left, status, command]
  - id: receiver
    path: receiver.py
    inputs: {pose: keyboard/pose_right, command: keyboard/command}
"""


def test_openarm_moves_by_the_keyboard_of_a_browser(place: Place) -> None:
    port = str(free_port())
    place.write(
        "browser.py",
        BROWSER
        + f"""
async def act(keys, control):
    keys.send(json.dumps({{"type": "keydown", "key": "i"}}))
    await asyncio.sleep(0.5)
    keys.send(json.dumps({{"type": "keyup", "key": "i"}}))
    keys.send(json.dumps({{"type": "keydown", "key": "Escape"}}))

asyncio.run(browse("http://127.0.0.1:{port}/offer", "keys", act))
""",
    )
    place.build(KEYBOARD.replace("PORT", port))
    received = place.run()
    assert values(received, "command") == [["lifter-stop"], ["quit"]]
    poses = [value[0]["pose"] for value in values(received, "pose")]
    assert poses[-1][0] > poses[0][0] and poses[-1][1:] == poses[0][1:]
    assert "picture 64 48" in place.output


WEBXR = """
nodes:
  - {id: browser, path: browser.py, outputs: [done]}
  - id: tick
    build: pip install dora-openarm-quitter
    path: dora-openarm-quitter
    inputs: {tick: dora/timer/millis/20, command: webxr/command}
    outputs: [tick]
  - id: camera
    build: pip install dora-openarm-dummy-camera
    path: dora-openarm-dummy-camera
    inputs: {tick: tick/tick}
    outputs: [image]
    env: {ENCODING: jpeg, IMAGE_WIDTH: 64, IMAGE_HEIGHT: 48}
  - id: webxr
    build: pip install dora-openarm-webxr
    path: dora-openarm-webxr
    args: --port PORT --tls-certificate-file node.pem --tls-key-file node.key --quit-button b
    env: {ICE_SERVERS: "[]"}
    inputs: {tick: tick/tick, camera_head_left: camera/image, camera_head_right: camera/image}
    outputs: [pose_right, pose_reference, trigger_right, button_b, vr_receive_times, status, command]
  - id: receiver
    path: receiver.py
    inputs:
      pose: webxr/pose_right
      trigger: webxr/trigger_right
      status: webxr/status
      command: webxr/command
"""


def test_openarm_follows_the_controllers_of_a_headset(place: Place) -> None:
    port = str(free_port())
    certify(place.folder, "node", "127.0.0.1")
    place.write(
        "browser.py",
        BROWSER
        + f"""
async def act(frames, control):
    control.send(json.dumps({{"type": "session-start"}}))
    pose = dict(x=0.0, y=1.0, z=0.0, qx=0.0, qy=0.0, qz=0.0, qw=1.0)
    for number in range(20):
        hand = {{**pose, "z": -0.3 - 0.01 * number}}
        frame = {{"type": "frame", "sequence": number, "pose_reference": pose, "pose_right": hand}}
        frames.send(json.dumps({{**frame, "trigger_right": 0.5, "button_b": number == 19}}))
        await asyncio.sleep(0.03)

asyncio.run(browse("https://127.0.0.1:{port}/offer", "xr", act))
""",
    )
    place.build(WEBXR.replace("PORT", port))
    received = place.run()
    assert values(received, "status") == [["ready"]] and values(received, "command") == [["quit"]]
    assert values(received, "trigger") == [[0.5]] * 20
    poses = [value[0]["pose"] for value in values(received, "pose")]
    assert len(poses) > 5 and poses[-1][0] > poses[0][0]
    assert "picture 64 48" in place.output
