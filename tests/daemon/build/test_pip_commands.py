"""Build lines that install packages: what is left of them once dora has taken out what it provides."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from dora.daemon.build.build import build_dataflow
from dora.daemon.build.pip import Fault, PipCommand, faults, pip_command, plan
from dora.daemon.build.shadowing import has_upstream, installer_environment, is_displaced, mend
from dora.daemon.options import BuildOptions
from dora.dataflow.model import Dataflow, NodeSpec
from dora.errors import BuildError


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("pip install a", PipCommand("install", ("a",))),
        ("pip3 list", PipCommand("list", ())),
        ("python -m pip install -U a", PipCommand("install", ("-U", "a"))),
        ("uv pip install a", PipCommand("install", ("a",), uv=True)),
        ("pip", PipCommand("", ())),
        ("uv sync", None),
        ("python setup.py install", None),
        ("cargo install pip", None),
    ],
)
def test_commands_of_pip(words, command):
    assert pip_command(words.split()) == command


def test_dora_rs_is_left_out_with_any_extra_and_version():
    left = plan(["-q", "dora-rs==0.3.5", "Dora_RS[x]>=9", "dora-rs-cli", "rich>=13"], "/")
    assert left.words == ["-q", "rich>=13"]
    assert left.provided == ["dora-rs", "dora-rs", "dora-rs-cli"]
    assert left.requirements == ["rich>=13"] and left.asks and left.certain


def test_options_and_their_values_are_not_requirements(tmp_path):
    (tmp_path / "needs.txt").write_text("# all\nrich>=13  # colours\n\nnumpy\n")
    words = ["--index-url", "https://x", "--extra-index-url=https://y", "-r", "needs.txt", "--no-cache-dir"]
    left = plan(words, str(tmp_path))
    assert left.words == words
    assert left.requirements == ["rich>=13", "numpy"] and left.certain


@pytest.mark.parametrize(
    "words",
    [
        ["-U", "rich"],
        ["rich", "--pre"],
        ["rich @ https://x/rich.whl"],
        ["-t", "x", "rich"],
        ["./node"],
        ["git+https://x/y"],
        ["-r", "gone.txt"],
        ["a.whl"],
    ],
)
def test_some_installations_are_never_skipped(words, tmp_path):
    left = plan(words, str(tmp_path))
    assert left.words == words and left.asks and not left.certain


def test_a_checkout_of_dora_rs_is_left_out_of_the_requirements(tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "pyproject.toml").write_text("[project]\nname = 'dora-rs'\n")
    left = plan(["-e", "node"], str(tmp_path))
    assert left.words == [] and left.provided == ["dora-rs"] and not left.asks


def test_a_builtin_node_is_replaced_by_its_requirement(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'dora-rerun'\n")
    for words in (["dora-rerun==0.5.0"], ["-e", "."]):
        left = plan(words, str(tmp_path))
        assert left.builtin == ["dora-rerun"]
        assert len(left.words) == 1 and left.words[0].startswith("rerun-sdk")


def build(tmp_path, *commands, **options):
    entries = []
    node = NodeSpec("n", path="n.py", build=commands)
    built = build_dataflow(Dataflow((node,), str(tmp_path)), entries.append, BuildOptions(**options))
    return built, [entry.message for entry in entries]


def test_programs_of_another_protocol_are_refused_with_a_reason(tmp_path):
    with pytest.raises(BuildError, match="`dora-kit-car` is a program in Rust that speaks an old wire"):
        build(tmp_path, "pip install dora-kit-car")


def test_pip_is_not_started_for_installed_packages(tmp_path, monkeypatch):
    def started(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", started)
    built, said = build(tmp_path, "pip install pyarrow 'msgspec>=0.1'", "uv pip install dora-rs==0.3.5")
    assert (built.commands, built.skipped) == (2, 2)
    assert said == [
        "`pip install pyarrow 'msgspec>=0.1'`: nothing to do",
        "`dora-rs` is not installed: this dora takes its place",
        "`uv pip install dora-rs==0.3.5`: nothing to do",
    ]


def test_faults_of_requirements():
    assert faults(["pyarrow", "pytest>=1", "dora-rs==0.0.1", "x; python_version < '3'"]) == []
    found = version("pytest")
    assert faults(["pytest<1"]) == [Fault("pytest<1", "", found)]
    assert str(faults(["pytest<1"])[0]) == f"pytest<1, but {found} is installed"
    assert str(faults(["no-such-package"])[0]) == "no-such-package, but it is not installed"
    assert faults(["dora-dataflow"]) == []
    assert faults(["pytest @ https://x/y.whl"]) == []


def write_wheel(folder: Path, name: str, files: dict[str, str], requires: str = "") -> None:
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.mark.processes
@pytest.mark.parametrize("pin", ["==0.3.5", ">=0.3.11,<0.4", "~=0.5.0", ">=0.3.9", "==0.3.*"])
def test_any_pin_of_dora_rs_is_satisfied_without_its_files(pin, tmp_path):
    write_wheel(tmp_path, "some_node", {"some_node.py": ""}, f"Requires-Dist: dora-rs{pin}\n")
    links = tmp_path / "links"
    links.mkdir()
    variables = {**os.environ, **installer_environment(str(links), {})}
    target = tmp_path / "target"
    words = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--find-links",
        str(tmp_path),
        "--target",
        str(target),
    ]
    subprocess.run([sys.executable, *words, "some_node"], env=variables, check=True, timeout=60)
    assert (target / "some_node.py").exists() and not (target / "dora").exists()
    assert [path for path in target.iterdir() if "+dora.dataflow" in path.name]


@pytest.mark.processes
def test_uv_ignores_requirements_of_dora_rs(tmp_path):
    pytest.importorskip("uv")
    write_wheel(tmp_path, "some_node", {"some_node.py": ""}, "Requires-Dist: dora-rs==0.3.5\n")
    target = tmp_path / "target"
    commands = f"uv pip install --no-index --find-links {tmp_path} --target {target} some_node"
    built, _ = build(tmp_path, commands)
    assert built.skipped == 0
    assert sorted(path.name for path in target.glob("*.py")) == ["some_node.py"]


def test_an_editable_project_is_installed_once(tmp_path, monkeypatch):
    project = tmp_path / "my-node"
    project.mkdir()
    about = "[project]\nname='my-node'\n[build-system]\nbuild-backend='hatchling.build'\n"
    (project / "pyproject.toml").write_text(about)
    packages = tmp_path / "site-packages"
    info = packages / "my_node-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-node\nVersion: 1.0\n")
    (info / "RECORD").write_text("my_node-1.0.dist-info/direct_url.json,,\n")
    origin = {"url": project.as_uri(), "dir_info": {"editable": True}}
    monkeypatch.syspath_prepend(str(packages))
    assert not plan(["-e", "my-node"], str(tmp_path)).certain
    (info / "direct_url.json").write_text(json.dumps(origin))
    assert plan(["-e", "my-node"], str(tmp_path)).certain
    assert plan(["-e", "my-node[extra]"], str(tmp_path)).requirements == ["my-node[extra]"]
    assert not plan(["my-node/"], str(tmp_path)).certain
    later = (info / "direct_url.json").stat().st_mtime + 10
    os.utime(project / "pyproject.toml", (later, later))
    assert not plan(["-e", "my-node"], str(tmp_path)).certain


@pytest.mark.parametrize(
    ("files", "tools", "skipped"),
    [
        (["node.py", "build/old.c", ".venv/x.c"], "", True),
        (["node.py", "setup.py"], "", False),
        (["src/fast.pyx"], "", False),
        (["fast.c"], "", False),
        (["node.py"], "[[tool.setuptools.ext-modules]]\nname='fast'\nsources=['../fast.c']\n", False),
    ],
)
def test_an_editable_project_of_setuptools_is_installed_again_if_it_may_be_compiled(
    tmp_path, monkeypatch, files, tools, skipped
):
    project = tmp_path / "fast"
    for name in files:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    about = "[project]\nname='fast'\n[build-system]\nbuild-backend='setuptools.build_meta'\n"
    (project / "pyproject.toml").write_text(about + tools)
    packages = tmp_path / "site-packages"
    info = packages / "fast-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast\nVersion: 1.0\n")
    (info / "RECORD").write_text("fast-1.0.dist-info/direct_url.json,,\n")
    origin = {"url": project.as_uri(), "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(packages))
    assert plan(["-e", "fast"], str(tmp_path)).certain == skipped


@pytest.mark.processes
def test_files_of_dora_rs_over_those_of_dora_are_detected(tmp_path, monkeypatch):
    assert not is_displaced()
    package = tmp_path / "dora"
    package.mkdir()
    (package / "__init__.py").write_text("from .dora import *\n")
    assert has_upstream(str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert is_displaced()
    assert "uninstall -y dora-rs dora-rs-cli && " in mend()
    with pytest.raises(BuildError, match="has installed dora-rs over this dora; mend it with"):
        build(tmp_path, "python -c ''")


@pytest.mark.processes
def test_versions_that_dora_cannot_work_with_are_not_hidden(tmp_path, monkeypatch):
    found = iter([[], [Fault("pyarrow>=15", "dora-dataflow", "14.0")]])
    monkeypatch.setattr("dora.daemon.build.node_builds.faults", lambda _: next(found))
    with pytest.raises(BuildError, match=r"dora-dataflow requires pyarrow>=15, but 14.0 is installed"):
        build(tmp_path, "python -c ''")


@pytest.mark.processes
def test_an_earlier_fault_does_not_fail_a_build(tmp_path, monkeypatch):
    wrong = [Fault("pyarrow>=15", "dora-dataflow", "14.0")]
    monkeypatch.setattr("dora.daemon.build.node_builds.faults", lambda _: wrong)
    build(tmp_path, "python -c ''")


def test_contradicting_requirements_of_nodes_are_a_warning(tmp_path, monkeypatch):
    conflict = [Fault("numpy<2", "some-node", "2.1")]
    monkeypatch.setattr(
        "dora.daemon.build.node_builds.faults",
        lambda asked: conflict if list(asked) == ["some-node"] else [],
    )
    monkeypatch.setattr("dora.daemon.build.subprocesses.Processes.run", lambda *_, **__: [])
    _, said = build(tmp_path, "pip install some-node")
    assert said[-1].startswith("some-node requires numpy<2, but 2.1 is installed, as another node needs it")


def test_without_pip_uv_installs(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(
        "dora.daemon.build.subprocesses.Processes.run", lambda _, words, **__: ran.append(words)
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("dora.daemon.build.node_builds.find_uv", lambda: "/bin/uv")
    monkeypatch.setattr("dora.daemon.build.environments.find_uv", lambda: "/bin/uv")
    build(tmp_path, "pip install no-such-package")
    assert ran == [["/bin/uv", "pip", "install", "--python", sys.executable, "no-such-package"]]
    monkeypatch.setattr("dora.daemon.build.node_builds.find_uv", lambda: None)
    with pytest.raises(BuildError, match=r"neither pip in the environment of .* nor uv on PATH"):
        build(tmp_path, "pip install no-such-package")
