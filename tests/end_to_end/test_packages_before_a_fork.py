"""What packages do and look at when they are imported: a node finds the same however it was started.

By default a node imports them itself. With `preload` they are imported before it is forked.
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from flow import Flow
from waiting import alive, wait_until

import dora
from dora.daemon.template import process as template_process

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="templates need Linux"),
]

# Prints how it was started, and what the package has kept for it.
SHOWS = """
    import os
    from dora import Node
    parent = open(f"/proc/{os.getppid()}/cmdline").read()
    print("forked" if "/daemon/template/" in parent else "plain")
    import heavy
    heavy.show()
    Node()
"""
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "named": {"preload": ["heavy"]},
    "plain": {"preload": False},
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with installed packages, on the path of this process and of all that it starts."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return folder


def shown_by(flow: Flow, packages: Path, text: str, **fields: Any) -> dict[str, list[str]]:
    """Return for each way what the nodes print that import a package with this text."""
    (packages / "heavy.py").write_text(textwrap.dedent(text))
    for way, of_way in WAYS.items():
        flow.node(way, SHOWS, **of_way, **fields)
    flow.run(preload=True)
    found = {way: flow.printed(way) for way in WAYS}
    assert [found["default"].pop(0), found["plain"].pop(0)] == ["forked", "plain"]
    return found


# --------------------------------------------------------------------------- the environment


def test_what_a_package_sets_in_the_environment_is_there(
    flow: Flow, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Qt of opencv-python finds its plug-ins by a variable that `import cv2` sets."""
    monkeypatch.setenv("TO_REMOVE", "there")
    text = """
        import ctypes, os, subprocess
        os.environ["FROM_PYTHON"] = "set"
        os.environ.pop("TO_REMOVE", None)
        ctypes.CDLL(None).setenv(b"FROM_C", b"set", 1)
        def show():
            names = ("FROM_PYTHON", "TO_REMOVE", "FROM_C")
            print(*(os.environ.get(name) for name in names))
            print(subprocess.getoutput("echo $FROM_PYTHON $TO_REMOVE $FROM_C"))
    """
    found = shown_by(flow, packages, text)
    assert found["named"].pop(0) == "forked"
    assert found == {way: ["set None None", "set set"] for way in WAYS}


def test_variables_of_a_node_reach_the_code_of_its_packages(flow: Flow, packages: Path) -> None:
    """OpenCV reads OPENCV_LOG_LEVEL in compiled code when it is imported."""
    text = """
        import ctypes, os
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_char_p
        level = getenv(b"HEAVY_LOG_LEVEL"), os.environ.get("HEAVY_MODE")
        def show():
            print(*level)
    """
    found = shown_by(flow, packages, text, env={"HEAVY_LOG_LEVEL": "silent", "HEAVY_MODE": "fast"})
    assert found["named"].pop(0) == "plain"
    assert found == {way: ["b'silent' fast"] for way in WAYS}


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_DEFAULT_MEMORY_POOL", "NPY_X"]
)
def test_a_node_with_a_variable_that_numpy_or_arrow_reads_starts_plainly(
    flow: Flow, packages: Path, name: str
) -> None:
    (packages / "heavy.py").write_text("def show(): pass\n")
    flow.node("a", SHOWS, env={name: "system"}, preload=["heavy"])
    flow.run(preload=True)
    assert flow.printed("a") == ["plain"]


def test_nodes_with_variables_of_their_own_share_a_template(flow: Flow, packages: Path) -> None:
    imports = flow.directory / "imports"
    (packages / "heavy.py").write_text(
        f"with open({str(imports)!r}, 'a') as file: file.write('one ')\n"
        "import os\ndef show(): print(os.environ['CAMERA'])\n"
    )
    for number in range(3):
        flow.node(f"n{number}", SHOWS, preload=["heavy"], env={"CAMERA": number})
    flow.run()
    assert [flow.printed(f"n{number}") for number in range(3)] == [["forked", str(n)] for n in range(3)]
    assert imports.read_text() == "one "


# --------------------------------------------------------------------------- folder, arguments


def test_a_package_finds_its_file_in_the_working_folder(flow: Flow, packages: Path) -> None:
    """Matplotlib reads a `matplotlibrc` there when it is imported."""
    text = """
        import os
        settings = open("heavyrc").read() if os.path.exists("heavyrc") else "no settings"
        def show():
            print(settings)
    """
    flow.file("heavyrc", "of this folder")
    found = shown_by(flow, packages, text)
    assert found["named"].pop(0) == "forked"
    assert found == {way: ["of this folder"] for way in WAYS}


def test_a_package_sees_the_program_that_imports_it(flow: Flow, packages: Path) -> None:
    """Named in `preload` it sees no program, and nothing of the template."""
    text = """
        import os, sys
        main = os.path.basename(getattr(sys.modules["__main__"], "__file__", "none"))
        arguments = sys.argv[1:]
        def show():
            print(main, arguments)
    """
    found = shown_by(flow, packages, text, args="--fast")
    assert found["default"] == ["default.py ['--fast']"]
    assert found["plain"] == ["plain.py ['--fast']"]
    assert found["named"] == ["forked", "none []"]


# --------------------------------------------------------------------------- what a fork cannot have


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import numpy.random\nmine = numpy.random.default_rng()\n",
            "makes a generator of random numbers of NumPy",
        ),
        ("import os\nos.chdir('/tmp')\n", "changes the working folder of the process"),
        ("import os\nos.umask(0o077)\n", "changes the umask of the process"),
        ("import mmap\nshared = mmap.mmap(-1, 4096)\n", "makes shared memory"),
        ("import subprocess\nsubprocess.Popen(['sleep', '1000'])\n", "starts processes"),
        (
            "import os\nif not hasattr(os, 'is_node') and __import__('sys').argv == ['-c']: os.abort()\n",
            "ends the process: SIGABRT",
        ),
    ],
    ids=["numpy", "folder", "umask", "shared memory", "process", "crash"],
)
def test_a_node_imports_itself_what_a_fork_would_not_have(
    flow: Flow, packages: Path, text: str, reason: str
) -> None:
    (packages / "heavy.py").write_text(text + "def show(): print('shown')\n")
    flow.node("one", SHOWS, preload=["heavy"])
    flow.node("other", SHOWS)
    flow.run(preload=True)
    assert flow.printed("one") == ["plain", "shown"]
    assert flow.printed("other") == ["forked", "shown"]
    told = [entry.message for entry in flow.entries if entry.node_id is None]
    assert (
        f"dataflow.yml:4:5: importing heavy {reason}; the nodes that need it start without `preload`"
        in "".join(told)
    )


def test_generators_of_packages_that_are_forked_differ_unless_the_package_seeds_them(
    flow: Flow, packages: Path
) -> None:
    (packages / "heavy.py").write_text(
        "import random, tempfile\n"
        "mine, chosen, names = random.Random(), random.Random(7), tempfile._RandomNameSequence()\n"
        "def show(): print(mine.random(), next(names), chosen.random())\n"
    )
    for node in ("one", "other"):
        flow.node(node, SHOWS, preload=["heavy"])
    flow.node("plain", SHOWS, preload=False)
    flow.run()
    printed = [flow.printed(node) for node in ("one", "other", "plain")]
    assert [way for way, _ in printed] == ["forked", "forked", "plain"]
    numbers, names, chosen = zip(*(text.split() for _, text in printed), strict=True)
    assert len(set(numbers)) == len(set(names)) == 3
    assert len(set(chosen)) == 1


@pytest.mark.slow
def test_generators_that_packages_make_differ_between_nodes(flow: Flow, packages: Path) -> None:
    (packages / "heavy.py").write_text(
        "import random, numpy.random\n"
        "mine, other = random.Random(), numpy.random.default_rng()\n"
        "def show(): print(mine.random(), other.random())\n"
    )
    for number in range(2):
        flow.node(f"default{number}", SHOWS)
        flow.node(f"named{number}", SHOWS, preload=["heavy"])
    flow.run(preload=True)
    numbers = [flow.printed(f"{name}{number}")[1] for name in ("default", "named") for number in range(2)]
    assert len(set(numbers)) == 4


def test_a_process_that_a_package_starts_in_a_template_does_not_outlive_it(
    flow: Flow, packages: Path
) -> None:
    """It is killed also if it has left its session. One that a node starts is a matter of the node."""
    note = flow.directory / "note"
    (packages / "heavy.py").write_text(
        textwrap.dedent(f"""
            import os, time
            if not os.path.exists({str(note)!r}):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        with open({str(note)!r}, "w") as file:
                            print(os.getpid(), file=file)
                        time.sleep(1000)
                    os._exit(0)
                while not (os.path.exists({str(note)!r}) and open({str(note)!r}).read()):
                    time.sleep(0.001)
            def show(): pass
        """)
    )
    flow.node("named", SHOWS, preload=["heavy"])
    flow.run(preload=True)
    pid = int(note.read_text())
    try:
        wait_until(lambda: not alive(pid), "the end of the process", 5)
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_an_import_that_hangs_is_given_up(
    flow: Flow, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes that wait for it start plainly, and later ones need not wait for it again."""
    impatient = flow.directory / "dora" / "daemon" / "template" / "impatient.py"
    impatient.parent.mkdir(parents=True)
    impatient.write_text(
        "from dora.daemon.template import children, entry\nchildren.IMPORT_TIMEOUT = 1.0\nentry.serve()\n"
    )
    monkeypatch.setattr(template_process, "PROGRAM", str(impatient))
    imports = flow.directory / "imports"
    (packages / "heavy.py").write_text(
        "import os, sys, time\n"
        f"with open({str(imports)!r}, 'a') as file: print(os.getpid(), sys.argv, file=file)\n"
        "if sys.argv == ['-c']: time.sleep(1000)\n"
        "def show(): raise SystemExit(1)\n"
    )
    again = {"restart_policy": "on-failure", "max_restarts": 2, "restart_delay": 0.01}
    flow.node("a", SHOWS, preload=["heavy"], **again)
    with pytest.raises(dora.DataflowFailed):
        flow.run()
    assert [line for line in flow.printed("a") if line in ("plain", "forked")] == ["plain"] * 3
    told = "\n".join(entry.message for entry in flow.entries if entry.node_id is None)
    assert "dataflow.yml:4:5: importing heavy takes longer than 1 s" in told
    lines = imports.read_text().splitlines()
    hung = [int(line.split()[0]) for line in lines if "['-c']" in line]
    assert len(lines) == 4 and len(hung) == 1
    assert not alive(hung[0])


# --------------------------------------------------------------------------- changed packages

# Installs a package, and is restarted until it is forked again: by a template that was started since.
INSTALLS = """
    import os
    import sys
    from dora import Node
    Node()
    parent = open(f"/proc/{os.getppid()}/cmdline").read()
    print("forked" if "/daemon/template/" in parent else "plain", os.getppid())
    if not os.path.exists("installed"):
        open("installed", "w").close()
        open(os.path.join(os.environ["PYTHONPATH"].split(os.pathsep)[0], "new.py"), "w").close()
        sys.exit(1)
    sys.exit("/daemon/template/" not in parent)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_a_run_has_another_template_after_a_package_was_installed(flow: Flow) -> None:
    flow.node("stays", "from dora import Node\nfor event in Node(): pass\n", inputs={"in": "a/out"})
    flow.node(
        "a", INSTALLS, outputs=["out"], restart_policy="on-failure", max_restarts=5, restart_delay=0.5
    )
    flow.run(preload=True)
    starts = [line.split() for line in flow.printed("a") if line.startswith(("plain", "forked"))]
    ways = [way for way, _ in starts]
    assert ways[0] == "forked" and ways[1] == "plain" and ways[-1] == "forked", starts
    assert starts[0][1] != starts[-1][1]
