"""What is imported before nodes start: `preload` in the dataflow file, and `--no-preload`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from flow import Flow

import dora
from dora.daemon.template.checks import LOOK_EVERY
from dora.transport.engines import ENGINES
from dora.wire.node_config import EngineName

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="templates need Linux"),
]

# Prints whether it was forked, and which of the packages of the test are in memory before it imports any.
SHOWS = """
    import os
    import sys
    imported = [name for name in ("heavy", "light") if name in sys.modules]
    from dora import Node
    parent = open(f"/proc/{os.getppid()}/cmdline").read()
    print("forked" if "/daemon/template/" in parent else "plain", *imported)
    Node()
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on the path of this process and of all that it starts; it has two packages."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in ("heavy", "light"):
        (folder / f"{name}.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.mark.usefixtures("packages")
def test_named_packages_are_in_memory_when_a_node_starts(flow: Flow) -> None:
    flow.node("both", SHOWS, preload=["heavy", "light"])
    flow.node("one", SHOWS, preload=["light"])
    flow.node("none", SHOWS)
    flow.node("plain", SHOWS, preload=False)
    flow.run()
    printed = {name: flow.printed(name) for name in ("both", "one", "none", "plain")}
    assert printed == {
        "both": ["forked heavy light"],
        "one": ["forked light"],
        "none": ["forked"],
        "plain": ["plain"],
    }


IMPORTS = """
    import sys
    before = set(sys.modules)
    from dora import Node
    with Node() as node:
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("out", event["value"])
                break
    print(sorted(name for name in sys.modules.keys() - before if name.startswith("dora")))
"""


def test_a_forked_node_imports_nothing_of_dora(flow: Flow) -> None:
    """Each node would hold such a module for itself."""
    flow.node("clock", IMPORTS, inputs={"tick": "dora/timer/millis/10"}, outputs=["out"])
    flow.node("relay", IMPORTS, inputs={"out": "clock/out"}, outputs=["out"])
    flow.run(preload=True, black_box=30.0)
    assert [flow.printed(name) for name in ("clock", "relay")] == [["[]"], ["[]"]]


@pytest.mark.usefixtures("packages")
def test_no_preload_starts_every_node_plainly(flow: Flow) -> None:
    flow.node("a", SHOWS, preload=["heavy"])
    flow.run(preload=False)
    assert flow.printed("a") == ["plain"]
    assert "plain" in flow.run_command("--no-preload").stdout


def test_a_package_that_cannot_be_imported_is_reported_with_its_place(flow: Flow, packages: Path) -> None:
    (packages / "heavy.py").write_text("def find(): raise RuntimeError('no camera')\nfind()\n")
    flow.node("a", SHOWS, preload=["heavy"])
    flow.node("b", SHOWS, preload=["light", "missing"])
    flow.node("c", SHOWS)
    flow.run()
    assert [flow.printed(name) for name in "abc"] == [["plain"], ["plain"], ["forked"]]
    text = "\n".join(entry.message for entry in flow.entries if entry.node_id is None)
    assert "dataflow.yml:4:5: importing heavy fails: RuntimeError: no camera" in text
    assert f'File "{packages}/heavy.py", line 1, in find' in text
    assert (
        "dataflow.yml:9:5: importing missing fails: ModuleNotFoundError: No module named 'missing'" in text
    )


# Prints at its end whether the modules of packages stay as they are.
AT_THE_END = """
    import os
    import sys
    import numpy
    from dora import Node
    from dora import _ending

    class Kept(list):
        def extend(self, modules, write=os.write, numpy=numpy):
            modules = list(modules)
            write(1, b"numpy is whole" if numpy in modules and numpy.array else b"numpy is empty")
            list.extend(self, modules)

    class Noticed:
        def __del__(self):
            pass

    _ending._kept = Kept()
    if sys.argv[1:]:
        numpy.noticed = Noticed()
    Node()
"""


@pytest.mark.both_ways
def test_a_node_ends_without_emptying_the_modules_of_packages(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):  # imports one more package
        monkeypatch.delenv(variable, raising=False)
    flow.node("a", AT_THE_END)
    flow.node("b", AT_THE_END, args="noticed")  # a package holds an object whose end can be noticed
    flow.run()
    assert (flow.printed("a"), flow.printed("b")) == (["numpy is whole"], [])


RELAY = """
    import pyarrow as pa
    from dora import Node
    node = Node()
    node.send_output("out", pa.array([1]))
    print(next(event for event in node if event["type"] == "INPUT")["value"])
"""


def test_what_arrow_imports_for_its_first_arrays_is_imported_once(flow: Flow, packages: Path) -> None:
    imports = flow.directory / "imports"
    (packages / "pandas.py").write_text(
        f"__version__ = '0.1'\nwith open({str(imports)!r}, 'a') as file: file.write('one ')\n"
    )
    for number in range(3):
        flow.node(f"n{number}", RELAY, inputs={"in": f"n{(number + 1) % 3}/out"}, outputs=["out"])
    flow.node("none", SHOWS)
    flow.run(preload=True)
    assert imports.read_text() == "one "


def test_a_file_of_the_user_hides_a_module_that_only_arrays_need(flow: Flow) -> None:
    """Arrow imports dateutil for its first arrays, and that `calendar`."""
    pytest.importorskip("dateutil")
    flow.file("calendar.py", "whose = 'of the user'\n")
    flow.node("a", "import calendar\nfrom dora import Node\nNode()\nprint(calendar.whose)\n", outputs=["x"])
    flow.run(preload=True)
    assert flow.printed("a") == ["of the user"]


# Changes a package that the template has imported, and is restarted twice.
CHANGING = """
    import os
    import sys
    import heavy
    from dora import Node
    Node()
    parent = open(f"/proc/{os.getppid()}/cmdline").read()
    print(heavy.number, "forked" if "/daemon/template/" in parent else "plain")
    with open(heavy.__file__, "w") as file:
        file.write("number = 20")
    sys.exit(1)
"""


@pytest.mark.slow
def test_a_named_package_that_was_changed_is_imported_again(flow: Flow, packages: Path) -> None:
    (packages / "heavy.py").write_text("number = 1")
    restarts = {"restart_policy": "on-failure", "max_restarts": 2, "restart_delay": 2 * LOOK_EVERY}
    flow.node("a", CHANGING, preload=["heavy"], **restarts)
    with pytest.raises(dora.DataflowFailed):
        flow.run()
    assert [line for line in flow.printed("a") if line[0].isdigit()] == [
        "1 forked",
        "20 plain",
        "20 forked",
    ]


@pytest.mark.slow
def test_nodes_are_forked_without_arrays_if_arrow_imports_what_starts_threads(
    flow: Flow, packages: Path
) -> None:
    (packages / "pandas.py").write_text(
        "__version__ = '0.1'\nimport threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    )
    restarts = {"restart_policy": "always", "max_restarts": 1, "restart_delay": 0.01}
    flow.node("a", SHOWS, outputs=["x"], **restarts)
    flow.run(preload=True)
    assert [line for line in flow.printed("a") if line in ("plain", "forked")] == ["plain", "forked"]


@pytest.mark.slow
def test_nodes_that_share_a_template_have_other_random_numbers_of_torch(flow: Flow, packages: Path) -> None:
    """PyTorch makes and seeds its global generator at its import; this package stands in for it."""
    (packages / "torch.py").write_text(
        "import random\n"
        "class Generator:\n"
        "    def seed(self):\n"
        "        self.number = random.SystemRandom().random()\n"
        "default_generator = Generator()\n"
        "default_generator.seed()\n"
    )
    program = """
        import sys
        forked = "torch" in sys.modules
        import torch
        from dora import Node
        print(forked, torch.default_generator.number)
        Node()
    """
    flow.node("one", program, preload=["torch"])
    flow.node("other", program, preload=["torch"])
    flow.run()
    (one,), (other,) = flow.printed("one"), flow.printed("other")
    assert one.startswith("True ") and other.startswith("True ")
    assert one != other


# Prints which engines are in memory before the node asks for one.
SHOWS_ENGINES = """
    import sys
    print(*[name for name in ("iceoryx2", "dora.transport.shm.engine") if name in sys.modules])
    from dora import Node
    Node()
"""


@pytest.mark.usefixtures("packages")  # so that the run has a template of its own
@pytest.mark.parametrize(
    ("engine", "loaded"), [("shm", "dora.transport.shm.engine"), ("iceoryx2", "iceoryx2")]
)
def test_a_template_loads_the_engine_of_its_run(flow: Flow, engine: EngineName, loaded: str) -> None:
    if why := ENGINES[engine].fault():
        pytest.skip(f"the engine {engine} {why}")
    flow.node("a", SHOWS_ENGINES)
    flow.run(preload=True, engine=engine)
    assert flow.printed("a") == [loaded]
