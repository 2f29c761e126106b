"""Every example folder is run, as a user would run it, on a copy."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from on_terminal import OnTerminal
from waiting import TIMEOUT

import dora.dataflow

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.processes


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of the example folder that the test names."""
    name = request.param
    return Path(shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=shutil.ignore_patterns("out")))


def dora_run(folder: Path, **environment: str) -> list[str]:
    """Run the dataflow of a folder to its end and return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "dora", "run", "dataflow.yml"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def said(lines: list[str], node: str) -> list[str]:
    """Return what a node printed, without the time and the level that the console puts before it."""
    pattern = re.compile(rf"\b{node}: +(.*)$")
    return [found[1] for line in lines if (found := pattern.search(line))]


def test_every_example_has_a_readme_and_a_test() -> None:
    folders = {file.parent.name for file in EXAMPLES.glob("*/*.yml")}
    tested = set(re.findall(r'"example", \["([^"]+)"\]', Path(__file__).read_text()))
    assert folders == tested
    assert all((EXAMPLES / folder / "README.md").is_file() for folder in folders)


@pytest.mark.parametrize("example", ["first-steps"], indirect=True)
def test_first_steps(example: Path) -> None:
    lines = said(dora_run(example), "receiver")
    assert lines == [
        "square: 0",
        "square: 1",
        "square: 4",
        "square: 9",
        "square: 16",
        "square: no more to come",
    ]


@pytest.mark.parametrize("example", ["operators"], indirect=True)
def test_operators(example: Path) -> None:
    assert said(dora_run(example), "printer") == ["sum of the squares: 385"]


@pytest.mark.parametrize("example", ["modules"], indirect=True)
def test_modules(example: Path) -> None:
    assert said(dora_run(example), "printer") == ["once 2 4 6 8", "twice 20 40 50 50"]


@pytest.mark.parametrize("example", ["types"], indirect=True)
def test_types(example: Path) -> None:
    lines = said(dora_run(example, DORA_RUNTIME_TYPE_CHECK="error"), "display")
    assert lines == [f"{mean} degrees on average" for mean in (12.0, 13.5, 18.0)]
    dora.dataflow.load(example / "dataflow.yml", strict_types=True)

    stations = example / "stations.py"
    stations.write_text(stations.read_text().replace("pa.float32()", "pa.float64()"))
    said_by_average = said(dora_run(example), "average")
    assert len(said_by_average) == 1 and "is no `weather/v1/Reading`" in said_by_average[0]
    with pytest.raises(AssertionError, match="`temperature` is double, not Float32"):
        dora_run(example, DORA_RUNTIME_TYPE_CHECK="error")


@pytest.mark.parametrize("example", ["services"], indirect=True)
def test_services(example: Path) -> None:
    assert said(dora_run(example), "client") == ["1 + 2 = 3", "20 + 22 = 42", "-5 + 5 = 0"]


@pytest.mark.parametrize("example", ["actions"], indirect=True)
def test_actions(example: Path) -> None:
    lines = said(dora_run(example), "guest")
    assert lines[:5] == ["soup: chop", "soup: boil", "soup: season", "a soup: succeeded", "roast: salt"]
    assert lines[5:] == ["half a roast: canceled", "aborted: `cook` raised KeyError: 'pizza'"]


@pytest.mark.slow
@pytest.mark.parametrize("example", ["rare-failure"], indirect=True)
def test_rare_failure(example: Path) -> None:
    def run(*command: str, status: int) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=example,
            env={**os.environ, "DORA_BLACK_BOX": "30s"},  # the tests have it off
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    report = run("dora", "run", "dataflow.yml", status=1)
    (saved,) = example.glob("out/*/black-box/*-failed.mcap")
    assert f"dora debug {saved.relative_to(example)} tracker --at failure" in report
    shrunk = run("dora", "shrink", str(saved), "tracker", status=0)
    assert re.search(r"left: 3 of [\d,]+ events, with 3 messages", shrunk), shrunk
    test = ("pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert "KeyError" in run(*test, status=1)
    program = example / "tracker.py"
    repaired = program.read_text().replace("del lost[number]", "del lost[number], missing[number]")
    program.write_text(repaired)
    run(*test, status=0)


def test_the_page_about_the_rare_failure_shows_the_example() -> None:
    page = (EXAMPLES.parent / "docs" / "how-to" / "from-a-failure-to-a-test.md").read_text()
    for file in ("dataflow.yml", "detector.py", "tracker.py"):
        assert (EXAMPLES / "rare-failure" / file).read_text() in page


@contextmanager
def running(example: Path) -> Iterator[subprocess.Popen[str]]:
    """Run an example meanwhile; kill it at the end if it still runs."""
    dataflow = subprocess.Popen(
        [sys.executable, "-u", "-m", "dora", "run", "dataflow.yml"],
        cwd=example,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield dataflow
    finally:
        dataflow.kill()
        dataflow.wait()


@pytest.mark.parametrize("example", ["parameters"], indirect=True)
def test_parameters(example: Path) -> None:
    with running(example) as dataflow:
        assert dataflow.stdout is not None
        next(line for line in dataflow.stdout if "controller: gain 0.01" in line)
        for arguments, answer in [
            (["list", "controller"], "Parameters for node controller:\n  gain = 0.01\n  quiet = false\n"),
            (["set", "controller", "gain", "0.9"], "Set `gain` = 0.9 on node `controller`\n"),
        ]:
            done = subprocess.run(
                [sys.executable, "-m", "dora", "param", *arguments, "-d", "dataflow"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
            assert (done.stdout, done.stderr, done.returncode) == (answer, "", 0)
        rest, _ = dataflow.communicate(timeout=TIMEOUT)
        assert "controller: gain is now 0.9" in rest
        assert re.search(r"plant: +arrived at 9", rest)
        assert dataflow.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("example", ["notebook"], indirect=True)
def test_notebook(example: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    with running(example) as dataflow:
        assert dataflow.stdout is not None
        next(line for line in dataflow.stdout if "the ball circles" in line)
        notebook = nbformat.read(example / "viewer.ipynb", as_version=4)
        first, receive = (cell for cell in notebook.cells[:5] if cell.cell_type == "code")
        unknown = nbformat.v4.new_code_cell('node.show("imgae")')
        remember = nbformat.v4.new_code_cell(
            "import threading\nold = [each for each in threading.enumerate() if each.name == 'dora-show']"
        )
        # Cells run again, and a mistake. The old thread draws the end: the client takes no notice of what
        # comes between two cells.
        again = first.copy()
        again.source += f"\nfor thread in old: thread.join({TIMEOUT})"
        notebook.cells[5:5] = [remember, again, receive.copy(), unknown]
        unknown.metadata["tags"] = ["raises-exception"]
        client = nbclient.NotebookClient(
            notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(example)}}
        )
        client.execute()
        rest, _ = dataflow.communicate(timeout=TIMEOUT)
        assert "the speed is 2.0" in rest and "the speed is 0.0" in rest
        assert dataflow.returncode == 0

    for cell, end in ((first, "the node is closed"), (again, "")):
        image, position = (output["data"]["text/html"] for output in cell.outputs)
        assert "<b>image</b> · message " in image and 'src="data:image/jpeg;base64,' in image
        assert "<b>position</b> · message " in position and position.count("<polyline") == 2
        assert end in image
    assert "30 positions" in receive.outputs[0]["text"]
    (error,) = unknown.outputs
    assert error["traceback"] == [
        "error: node `notebook` has no input `imgae` from another node, did you mean `image`? "
        "(its inputs: image, position)"
    ]


@pytest.mark.parametrize("example", ["seed-yolo-stand-in"], indirect=True)
def test_classic_object_detector(example: Path) -> None:
    (line,) = said(dora_run(example), "check")
    counts = re.fullmatch(r"check: (\d+) of (\d+) boxes are right", line)
    assert counts, line
    assert int(counts[1]) == int(counts[2]) > 0


@pytest.mark.parametrize("example", ["object-detection"], indirect=True)
def test_object_detection(example: Path) -> None:
    import cv2

    lines = said(dora_run(example, FRAMES="40"), "plot")
    assert "40 frames written" in lines[0]
    assert re.search(r"[\d.]+ frames/s, camera to plot: median [\d.]+ ms, p99 [\d.]+ ms", lines[1])

    detections = re.search(r"(\d+) of (\d+) detections", lines[0])
    assert detections, lines[0]
    assert int(detections[1]) == int(detections[2]) > 0
    picture = cv2.imread(str(example / "out" / "detections.png"))
    assert picture.shape == (480, 640, 3)
    green = (picture == (80, 200, 80)).all(axis=2).sum()
    assert green > 500, "no box is drawn around the face"
    video = cv2.VideoCapture(str(example / "out" / "detections.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 40
    video.release()


@pytest.mark.parametrize("example", ["object-detection"], indirect=True)
def test_object_detection_reads_a_picture(example: Path) -> None:
    from skimage import data, io

    io.imsave(example / "photo.png", data.astronaut(), check_contrast=False)
    lines = said(dora_run(example, FRAMES="10", CAMERA="photo.png"), "plot")
    assert "10 frames written" in lines[0]


@pytest.mark.parametrize("example", ["object-detection"], indirect=True)
def test_object_detection_names_the_missing_camera(example: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dora", "run", "dataflow.yml"],
        cwd=example,
        env={**os.environ, "CAMERA": "nothing.mp4"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 1
    assert "CAMERA=nothing.mp4 is neither" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", ["safe-arm"], indirect=True)
def test_safe_arm(example: Path) -> None:
    lines = dora_run(example, FRAMES="75", DELAY="0.5")
    arm = said(lines, "arm")
    assert "the arm holds still: deadline" in arm
    assert any(re.fullmatch(r"the arm moves again after [\d.]+ s", line) for line in arm), arm
    assert any("over the budget, mostly in" in line for line in arm), arm
    counts = re.match(r"(\d+) commands, (\d+) over the budget, (\d+) deadlines missed", arm[-2])
    assert counts, arm
    assert all(int(count) > 0 for count in counts.groups()), arm
    assert (example / "out" / "ages.png").stat().st_size > 10_000


@pytest.mark.parametrize("example", ["see-with-rerun"], indirect=True)
def test_see_with_rerun(example: Path) -> None:
    pytest.importorskip("rerun")
    lines = dora_run(example, STEPS="10", RERUN_SAVE="scene.rrd", OPERATING_MODE="SAVE")
    assert not [line for line in lines if "cannot be shown" in line]
    assert (example / "scene.rrd").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("example", ["voice-command"], indirect=True)
def test_voice_command(example: Path) -> None:
    pytest.importorskip("pocketsphinx")
    soundfile = pytest.importorskip("soundfile")
    lines = dora_run(example)
    report = said(lines, "report")
    human = [found[1] for line in report if (found := re.search(r"human: (.*)", line))]
    assert human == [
        "robot drive forward three meters",
        "robot turn left",
        "robot go forward five meters",
        "robot stop",
        "robot where are you",
    ]
    refused = [line for line in said(lines, "recognizer") if line.startswith("no command")]
    assert len(refused) == 1, refused  # the talk about the weather
    assert len([line for line in report if "robot: " in line]) == 5
    where = re.search(r"robot: 3.0 meters ahead, and ([\d.]+) to the left", "\n".join(report))
    assert where and 0 < float(where[1]) <= 5

    sound, rate = soundfile.read(example / "out" / "conversation.wav")
    assert sound.shape[1] == 2 and len(sound) / rate > 26
    assert all(abs(channel).max() > 0.1 for channel in sound.T)
    assert (example / "out" / "conversation.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("example", ["voice-command"], indirect=True)
def test_voice_command_names_a_file_that_is_no_sound(example: Path) -> None:
    pytest.importorskip("pocketsphinx")
    with pytest.raises(AssertionError, match=r"AUDIO=README.md cannot be read as a sound file"):
        dora_run(example, AUDIO="README.md")


@pytest.mark.slow
@pytest.mark.parametrize("example", ["read-text"], indirect=True)
def test_read_text(example: Path) -> None:
    pytest.importorskip("rapidocr")
    import cv2

    lines = said(dora_run(example), "stock")
    assert lines[-1] == "15 texts in 12 pictures, see out/shelf.png and out/stock.csv"
    with (example / "out" / "stock.csv").open() as file:
        stock = {row["text"]: row for row in csv.DictReader(file)}
    made = re.findall(r'\("([^"]+)", "([^"]+)", "([^"]+)"\)', (example / "make_shelf.py").read_text())
    assert set(stock) == {text for label in made for text in label}
    assert all(int(row["pictures"]) >= 2 and float(row["confidence"]) > 0.9 for row in stock.values())
    sheet = cv2.imread(str(example / "out" / "shelf.png"))
    green = (abs(sheet.astype(int) - (60, 160, 60)) < 20).all(axis=2).sum()
    assert green > 1000, "no box is drawn around a label"


@pytest.mark.parametrize("example", ["dynamic-node"], indirect=True)
def test_dynamic_node(example: Path) -> None:
    with running(example) as dataflow:
        # The talker's line shows that the dataflow runs and waits for the visitor.
        assert dataflow.stdout is not None
        first = next(line for line in dataflow.stdout if "talker: waiting for a visitor" in line)
        visitor = subprocess.run(
            [sys.executable, "visitor.py"], cwd=example, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert visitor.returncode == 0, visitor.stderr
        heard = re.search(r"visitor: heard \[(.*)\]", visitor.stdout)
        assert heard, visitor.stdout
        numbers = [int(number) for number in heard[1].split(", ")]
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        rest, _ = dataflow.communicate(timeout=TIMEOUT)
        assert "talker: thanks for 5 messages" in first + rest
        assert dataflow.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("example", ["robot-learning"], indirect=True)
def test_robot_learning(example: Path) -> None:
    import av
    import pyarrow.parquet as pq

    command = [sys.executable, "run.py", "--quick"]
    done = subprocess.run(command, cwd=example, capture_output=True, text=True, timeout=5 * TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    out = example / "out"
    last = done.stdout.splitlines()[-1]
    rates = re.fullmatch(r"success rate: (\d+) % of 3 \(untrained: (\d+) %\)", last)
    assert rates, last
    assert int(rates[1]) >= int(rates[2]) + 50

    info = json.loads((out / "dataset" / "meta" / "info.json").read_text())
    assert info["total_episodes"] == 5
    rows = sum(pq.read_metadata(file).num_rows for file in (out / "dataset" / "data").glob("*/*.parquet"))
    assert rows == info["total_frames"]
    assert json.loads((out / "rollout.json").read_text())["takeovers"] == 1
    with av.open(str(out / "rollout.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) > 50
    page = (out / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 2
    assert "sim/state to sim/command" in page

    again = subprocess.run(command, cwd=example, capture_output=True, text=True, timeout=TIMEOUT)
    assert again.returncode == 2
    assert "out/dataset is there; remove it to record again" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("example", ["robot-learning"], indirect=True)
def test_arrow_keys_drive_the_arm_of_robot_learning(example: Path) -> None:
    sent: set[tuple[float, ...]] = set()

    def watch(echo: subprocess.Popen[str]) -> None:
        assert echo.stdout is not None
        for line in echo.stdout:
            if line.startswith("{"):
                sent.add(tuple(round(speed, 3) for speed in json.loads(line)["data"]))

    terminal = OnTerminal("--keyboard", cwd=example, program=("run.py",))
    echo = None
    try:
        terminal.read_until(lambda text: "arrow keys: push" in text and "▀" in text)
        command = [sys.executable, "-m", "dora", "topic", "echo", "teleop/command", "--format", "json"]
        echo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=watch, args=(echo,), daemon=True).start()
        terminal.read_until(lambda _: (0.0, 0.0) in sent)
        terminal.type("\x1b[C\x1b[C\x1b[B")
        terminal.read_until(lambda _: (0.24, -0.12) in sent)
        sent.clear()
        terminal.type(" ")
        terminal.read_until(lambda _: (0.0, 0.0) in sent)
        terminal.type("q")
        terminal.read_until(
            lambda text: "not all episodes were recorded; out/keyboard.txt says more" in text
        )
        assert terminal.end() == 1
    finally:
        if echo is not None:
            echo.kill()
            echo.wait()
        terminal.process.send_signal(signal.SIGINT)  # so that it ends its dataflow
        terminal.close()
