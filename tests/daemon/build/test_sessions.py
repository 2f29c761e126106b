"""What a build notes in ``out/<name>.dora-session.yaml``."""

import json
import shutil
import subprocess
import sys
from uuid import UUID

import pytest
import yaml

import dora
from dora.daemon.build.session_file import build_fingerprint
from dora.dataflow import parse

pytestmark = pytest.mark.processes

FLOW = """
nodes:
  - id: n
    path: n.py
    build: python -c "print(1)"
    inputs: {tick: dora/timer/secs/3600}
    env: {SIZE: 3}
"""
KEYS = ["build_id", "session_id", "git_sources", "local_build", "build_fingerprint"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "robot.yml").write_text(FLOW)
    (tmp_path / "n.py").write_text("import dora\ndora.Node()\n")
    return tmp_path


def told(folder, command, *options):
    done = subprocess.run(
        [sys.executable, "-m", "dora", command, "robot.yml", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def session(folder):
    return yaml.safe_load((folder / "out" / "robot.dora-session.yaml").read_text())


def change(folder, old, new):
    file = folder / "robot.yml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_build_is_recorded_with_the_keys_of_dora_rs(folder):
    told(folder, "build")
    noted = session(folder)
    assert list(noted) == KEYS
    assert UUID(noted["build_id"]).version == UUID(noted["session_id"]).version == 7
    assert noted["git_sources"] == {}
    assert noted["local_build"] == {
        "node_working_dirs": {"n": str(folder)},
        "python_env_dirs": {},
        "confined_nodes": [],
    }
    assert len(bytes.fromhex(noted["build_fingerprint"])) == 8
    assert [path.name for path in (folder / "out").iterdir()] == ["robot.dora-session.yaml"]


def test_a_build_has_the_same_id_until_its_inputs_change(folder):
    dora.build(folder / "robot.yml")
    first = session(folder)
    dora.run(folder / "robot.yml", stop_after=30)
    assert session(folder) == first
    change(folder, "3600", "1800")  # of the run, not of the build
    dora.build(folder / "robot.yml")
    assert session(folder) == first
    change(folder, "print(1)", "print(2)")
    dora.run(folder / "robot.yml", stop_after=30)
    second = session(folder)
    assert second["session_id"] == first["session_id"]
    assert second["build_id"] != first["build_id"]
    assert second["build_fingerprint"] != first["build_fingerprint"]


@pytest.mark.parametrize(
    "line",
    [
        "build: pip --version",
        "env: {SIZE: 4}",
        "python: {requirements: [rich]}",
        "git: https://example.org/a.git",
        "git: https://example.org/a.git\n    tag: v1",
    ],
)
def test_the_fingerprint_covers_every_input_of_a_build(line):
    def fingerprint(*lines):
        text = "\n    ".join(["nodes:\n  - id: n", "path: n.py", *lines])
        return build_fingerprint(parse(text, working_dir="/", file="/a.yml", environ={}), uv=False)

    assert fingerprint(line) != fingerprint() == fingerprint("outputs: [x]")


def test_log_entries_in_json_name_the_build(folder):
    (folder / "n.py").write_text("import dora\nprint('here')\ndora.Node()\n")
    lines = [json.loads(line) for line in told(folder, "run", "--log-format", "json").splitlines()]
    build_ids = {line["build_id"] for line in lines if line["message"] == "here"}
    assert build_ids == {session(folder)["build_id"]}


@pytest.mark.parametrize("content", [b"\xff\xfe", b"session_id: [", b"session_id: 3\n", b"[" * 5000])
def test_a_damaged_session_is_written_again_with_a_warning(folder, content):
    (folder / "out").mkdir()
    (folder / "out" / "robot.dora-session.yaml").write_bytes(content)
    assert "is no session of a dataflow; it is written again" in told(folder, "build")
    assert list(session(folder)) == KEYS
    assert "made anew" not in told(folder, "build")


def test_a_session_that_cannot_be_written_stops_nothing(folder):
    (folder / "out").write_text("a file")
    printed = told(folder, "build")
    assert f"cannot be recorded in {folder}/out/robot.dora-session.yaml" in printed
    assert "built in" in printed


def test_a_session_of_dora_rs_is_continued(folder):
    (folder / "out").mkdir()
    (folder / "out" / "robot.dora-session.yaml").write_text(
        "build_id: null\nsession_id: 01a214b2-aa00-73be-99f9-5bc9785bd56a\ngit_sources: {}\n"
        "local_build: null\nanother_key: 1\n"
    )
    assert "made anew" not in told(folder, "build")
    assert session(folder)["session_id"] == "01a214b2-aa00-73be-99f9-5bc9785bd56a"
    assert session(folder)["build_id"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commits_of_nodes_from_repositories_are_recorded(folder, monkeypatch):
    repository = folder / "robot.git"
    repository.mkdir()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(folder / "gitconfig"))
    (folder / "gitconfig").write_text("[user]\nname = a\nemail = a@example.org\n")

    def git(*words):
        done = subprocess.run(["git", *words], cwd=repository, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit():
        git("commit", "-q", "--allow-empty", "-m", "a")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    (repository / "n.py").write_text("import dora\ndora.Node()\n")
    git("add", ".")
    first = commit()
    change(folder, "path: n.py", f"path: n.py\n    git: {repository}")
    told(folder, "build")
    noted = session(folder)
    assert noted["git_sources"] == {"n": {"repo": str(repository), "commit_hash": first}}
    assert noted["local_build"]["node_working_dirs"]["n"].startswith(f"{folder}/.dora/git/")
    second = commit()
    told(folder, "run", "--stop-after", "30")  # leaves the clone alone
    assert session(folder) == noted
    told(folder, "build")
    assert session(folder)["git_sources"]["n"]["commit_hash"] == second
    assert session(folder)["build_id"] != noted["build_id"]
    assert session(folder)["build_fingerprint"] == noted["build_fingerprint"]
    clone = session(folder)["local_build"]["node_working_dirs"]["n"]
    subprocess.run(["git", "checkout", "-qb", "mine"], cwd=clone, check=True)
    told(folder, "run", "--stop-after", "30")
    assert session(folder)["git_sources"]["n"]["commit_hash"] == second
