"""Environments of nodes: made by uv, from a lock, without a network."""

import doctest
import importlib.metadata
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

import dora
import dora.dataflow
from dora._version import __version__
from dora.daemon.build import environments, own_wheel
from dora.daemon.build.build import build_dataflow
from dora.daemon.build.environments import EnvironmentMaker
from dora.daemon.build.inline_script import inline_environment, with_inline_environments
from dora.daemon.options import BuildOptions
from dora.daemon.processes.interpreter import environment_folder, find_uv
from dora.dataflow.model import PythonEnvironment
from dora.errors import BuildError

needs_uv = pytest.mark.skipif(find_uv() is None, reason="uv is not installed")


def offer(folder: Path, name: str, version: str, requires: str = "") -> None:
    """Put the wheel of a package with one module into a folder."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder as the only source of packages; dora's own requirements are left out."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(own_wheel, "requirements", list)
    return folder


@pytest.fixture
def flow(tmp_path):
    def load(fields, path="n.py"):
        file = tmp_path / "dataflow.yml"
        file.write_text(f"nodes:\n  - id: n\n    path: {path}\n    {fields}\n")
        return dora.dataflow.load(file)

    return load


def build(dataflow, **options):
    """Build; return the environment's folder, and what was said."""
    entries = []
    dataflow = build_dataflow(dataflow, entries.append, BuildOptions(**options)).dataflow
    folder = environment_folder(dataflow, dataflow.nodes[0], uv=options.get("uv", False))
    return Path(folder), [entry.message for entry in entries]


def ask(folder, code):
    words = [f"{folder}/bin/python", "-c", code]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


@needs_uv
@pytest.mark.processes
def test_an_environment_has_the_requirements_of_its_node_and_this_dora(flow, index, tmp_path):
    offer(index, "tool", "1.5", "Requires-Dist: dora-rs==0.3.5\n")
    offer(index, "tool", "2.0")
    folder, said = build(flow("python: {requirements: ['tool<2']}"))
    assert said == [f"making its Python environment .dora/python-envs/{folder.name}"]
    assert ask(folder, "import tool; print(tool.version)") == "1.5"
    where = "import importlib.util as u; print(u.find_spec('dora').submodule_search_locations[0])"
    assert Path(ask(folder, where)).samefile(Path(dora.__file__).parent)
    claims = "from importlib.metadata import version as v; print(v('dora-rs'), v('dora-dataflow'))"
    assert ask(folder, claims) == f"{dora.__version__}+dora.dataflow {__version__}"
    assert build(flow("python: {requirements: ['tool<2']}"))[1] == []
    ignored = (tmp_path / ".dora" / ".gitignore").read_text().splitlines()
    assert "*" in ignored and "!python-locks/*.txt" in ignored


@needs_uv
@pytest.mark.processes
def test_the_levels_of_the_log_are_for_dora_alone(flow, index, monkeypatch):
    monkeypatch.setenv("RUST_LOG", "dora[")  # uv refuses to start with it
    offer(index, "tool", "1.5")
    folder, _ = build(flow("python: {requirements: [tool]}"))
    assert ask(folder, "import tool; print(tool.version)") == "1.5"


@needs_uv
@pytest.mark.processes
def test_the_lock_keeps_the_versions(flow, index, tmp_path):
    offer(index, "tool", "1.0")
    folder, _ = build(flow("python: {requirements: [tool]}"))
    offer(index, "tool", "2.0")
    (folder / "dora-environment").unlink()  # as if it had been interrupted
    folder, said = build(flow("python: {requirements: [tool]}"))
    assert said and ask(folder, "import tool; print(tool.version)") == "1.0"
    [lock] = (tmp_path / ".dora" / "python-locks").iterdir()
    assert "tool==1.0" in lock.read_text()
    lock.unlink()
    folder, _ = build(flow("python: {requirements: [tool]}"))
    assert ask(folder, "import tool; print(tool.version)") == "2.0"


@needs_uv
@pytest.mark.processes
def test_a_lock_of_a_dora_that_required_less_is_solved_anew_with_its_versions(flow, index, monkeypatch):
    offer(index, "tool", "1.0")
    folder, _ = build(flow("python: {requirements: [tool]}"))
    offer(index, "tool", "2.0")
    offer(index, "helper", "3.0")
    (folder / "dora-environment").unlink()  # as a new version of dora has another wheel
    monkeypatch.setattr(own_wheel, "requirements", lambda: ["helper>=2"])
    folder, _ = build(flow("python: {requirements: [tool]}"))
    assert ask(folder, "import tool, helper; print(tool.version, helper.version)") == "1.0 3.0"


def test_requirements_without_a_fitting_version_are_lacking_in_a_lock():
    assert doctest.testmod(environments).failed == 0
    lock = (
        "# made by uv\ntool==1.0 ; sys_platform == 'linux'\ntool==2.0 ; sys_platform != 'linux'\nA_b==1.0\n"
    )
    assert environments.lacking(lock, ["tool>=2", "a-b<2; python_version > '3'", "A.B"]) == []
    assert environments.lacking(lock, ["tool>2", "other"]) == ["tool>2", "other"]


@needs_uv
@pytest.mark.processes
def test_build_commands_work_in_the_environment_of_the_node(flow, index):
    offer(index, "tool", "1.0", "Requires-Dist: dora-rs>=7\n")
    dataflow = flow("build: [pip install tool, python -c 'import tool'] \n    python: {}")
    folder, said = build(dataflow)
    assert ask(folder, "import tool; print(tool.version)") == "1.0"
    assert "running `pip install tool`" in said


@needs_uv
@pytest.mark.processes
def test_unsolvable_requirements_are_reported_with_the_place_and_the_solver(flow, index):
    offer(index, "tool", "1.0")
    with pytest.raises(BuildError) as caught:
        build(flow("python: {requirements: ['tool>=3']}"))
    first, *output = str(caught.value).splitlines()
    assert "dataflow.yml:2:5: the Python environment of node `n` with `tool>=3` cannot be made" in first
    assert any("tool>=3" in line for line in output)
    with pytest.raises(BuildError, match=r"with Python 3.97 cannot be made: no such Python"):
        build(flow("python: {version: '3.97'}"), offline=True)


def test_a_missing_uv_is_reported_with_the_place(flow, monkeypatch):
    monkeypatch.setattr("dora.daemon.build.environments.find_uv", lambda: None)
    with pytest.raises(BuildError, match=r"dataflow.yml:2:5: .* node `n` needs uv, which is not installed"):
        build(flow("python: {requirements: [tool]}"))


def test_a_wheel_of_this_dora(tmp_path):
    path = str(tmp_path / "made" / "x.whl")
    own_wheel.write_wheel(path)
    before = os.stat(path)
    own_wheel.write_wheel(path)
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        record = wheel.read(f"dora_dataflow-{__version__}.dist-info/RECORD").decode()
    assert {line.partition(",")[0] for line in record.splitlines()} == set(names)
    assert f"dora_dataflow-{__version__}.dist-info/METADATA" in names


def test_a_wheel_of_an_installed_dora_has_its_files(monkeypatch, tmp_path):
    real = importlib.metadata.distribution("dora-dataflow")

    class Installed:
        read_text = staticmethod(real.read_text)

        @staticmethod
        def locate_file(name):
            return Path(dora.__file__).parents[1] / name

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Installed)
    own_wheel.write_wheel(str(tmp_path / "x.whl"))
    with zipfile.ZipFile(tmp_path / "x.whl") as wheel:
        names = wheel.namelist()
    assert "dora/__init__.py" in names and "dora/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pth")]


BLOCK = """#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "tool<2",
# ]
# ///
import tool
"""


def test_a_script_declares_its_own_requirements(flow, tmp_path):
    (tmp_path / "n.py").write_text(BLOCK)
    assert with_inline_environments(flow("outputs: [x]")).nodes[0].python == PythonEnvironment(
        ">=3.11", ("tool<2",)
    )
    said = flow("python: {version: '3.12'}")
    assert with_inline_environments(said) == said
    (tmp_path / "n.py").write_text("import tool\n")
    plain = flow("outputs: [x]")
    assert with_inline_environments(plain) is plain


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("# dependencies = [", "is not TOML"),
        ("# dependencies = 'a'", "`dependencies` .* is not a list of texts"),
        ("# requires-python = 3.11", "`requires-python` .* is not a text"),
        ("# a = 1\n# ///\n\n# /// script\n# b = 1", "there are two blocks"),
    ],
)
def test_blocks_that_cannot_be_read(lines, says):
    with pytest.raises(BuildError, match=says):
        inline_environment(f"# /// script\n{lines}\n# ///\n", "n.py")


def test_blocks_of_other_kinds_are_left_alone():
    assert inline_environment("# /// other\n# a = 1\n# ///\n", "n.py") is None


@needs_uv
@pytest.mark.parametrize("kind", ["folder", "link"])
@pytest.mark.usefixtures("index")
def test_a_folder_at_the_place_of_an_environment_stays(flow, tmp_path, kind):
    (tmp_path / "n.py").touch()
    dataflow = flow("python: {requirements: []}")
    folder = Path(environment_folder(dataflow, dataflow.nodes[0], uv=False))
    folder.parent.mkdir(parents=True)
    mine = folder if kind == "folder" else tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("text")
    if kind == "link":
        folder.symlink_to(mine)
    with pytest.raises(BuildError, match="exists and is no environment; move it elsewhere"):
        build(dataflow)
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


@needs_uv
@pytest.mark.processes
@pytest.mark.parametrize("step", ["solving", "installing"])
def test_a_failed_rebuild_leaves_the_environment_before(flow, index, tmp_path, monkeypatch, step):
    offer(index, "tool", "1.0")
    folder, _ = build(flow("python: {requirements: [tool]}"))
    [wheel] = index.glob("tool-*")
    wheel.unlink()
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    stamp = folder / "dora-environment"
    stamp.write_text("of another version of dora\n")
    if step == "solving":
        shutil.rmtree(tmp_path / ".dora" / "python-locks")
        monkeypatch.setattr(EnvironmentMaker, "_set_aside", None)  # it stays: a dataflow may run in it
    with pytest.raises(BuildError, match="its packages cannot be had"):
        build(flow("python: {requirements: [tool]}"), offline=True)
    locks = [path.name for path in (tmp_path / ".dora" / "python-locks").iterdir()]
    assert locks == ([] if step == "solving" else [f"{folder.name}.txt"])
    assert ask(folder, "import tool; print(tool.version)") == "1.0"
    assert sorted(path.name for path in folder.parent.iterdir()) == [f".{folder.name}.lock", folder.name]


@needs_uv
@pytest.mark.processes
def test_an_environment_whose_rebuild_was_killed_comes_back(flow, index):
    offer(index, "tool", "1.0")
    folder, _ = build(flow("python: {requirements: [tool]}"))
    folder.rename(folder.parent / f".{folder.name}.before")
    folder.mkdir()
    (folder / "pyvenv.cfg").touch()
    assert build(flow("python: {requirements: [tool]}")) == (folder, [])
    assert ask(folder, "import tool; print(tool.version)") == "1.0"


@needs_uv
@pytest.mark.processes
def test_a_rebuild_leaves_nothing_of_the_environment_before(flow, index):
    offer(index, "tool", "1.0")
    folder, _ = build(flow("python: {requirements: [tool]}"))
    alone = sorted(path.name for path in folder.parent.iterdir())
    (folder / "dora-environment").write_text("of another version of dora\n")
    build(flow("python: {requirements: [tool]}"))
    assert sorted(path.name for path in folder.parent.iterdir()) == alone
    shutil.copytree(folder, folder.parent / f".{folder.name}.before", symlinks=True)
    (folder / "new").touch()
    assert build(flow("python: {requirements: [tool]}")) == (folder, []), "killed when it was complete"
    assert sorted(path.name for path in folder.parent.iterdir()) == alone
    assert (folder / "new").exists()


@needs_uv
@pytest.mark.processes
def test_a_lock_that_cannot_be_solved_anew_stays_as_it_was(flow, index, monkeypatch, tmp_path):
    offer(index, "tool", "1.0")
    folder, _ = build(flow("python: {requirements: [tool]}"))
    lock = tmp_path / ".dora" / "python-locks" / f"{folder.name}.txt"
    text = lock.read_text()
    (folder / "dora-environment").write_text("of another version of dora\n")
    monkeypatch.setattr(own_wheel, "requirements", lambda: ["gone"])
    with pytest.raises(BuildError, match="its packages cannot be had"):
        build(flow("python: {requirements: [tool]}"), offline=True)
    assert list(lock.parent.iterdir()) == [lock] and lock.read_text() == text
