"""``dora graph``: where the page goes and what is in it. How it looks is in test_graph_page.py."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from dora.cli.main import run_command_line

ROOT = Path(__file__).parents[2]
FLOW = (
    "nodes:\n  - id: a\n    path: a.py\n    outputs: [x]\n  - id: b\n    path: b.py\n    inputs: {y: a/x}\n"
)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `dora graph` in a folder with a dataflow: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Path("robot.yml").write_text(FLOW)

    def run_line(*arguments: str):
        status = run_command_line(("graph", *arguments))
        return status, *capsys.readouterr()

    return run_line


def test_the_page_is_in_the_working_folder_and_never_overwritten(run, tmp_path):
    for name in ("robot-graph.html", "robot-graph.1.html", "robot-graph.2.html"):
        assert run("robot.yml") == (0, f"The graph is in {(tmp_path / name).as_uri()}\n", "")
        assert (tmp_path / name).stat().st_size > 100_000


def test_the_page_needs_nothing_from_elsewhere(run):
    run("robot.yml")
    page = Path("robot-graph.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]* (?:src|href)=\"(?!data:)", page)
    assert "@import" not in page and "url(http" not in page
    assert not re.search(r"@[A-Z]+@", page)
    data = re.search(r'id="graph-data">(.*?)</script>', page)
    assert data and [box["id"] for box in json.loads(data[1])["boxes"]] == ["a", "b"]


def test_text_of_a_dataflow_is_escaped_in_the_page(run):
    evil = "</script><script>alert(1)</script>@ENGINE@"
    Path("<b>.yml").write_text(FLOW.replace("path: a.py", f"path: a.py\n    description: '{evil}'"))
    run("<b>.yml")
    page = Path("<b>-graph.html").read_text()
    assert evil not in page and "</script><script>alert" not in page
    assert "/&lt;b&gt;.yml</title>" in page


def test_mermaid(run):
    status, out, err = run("robot.yml", "--mermaid")
    assert status == 0 and err.startswith("Paste this at https://mermaid.live")
    assert out.startswith('flowchart LR\n  node_a["a"]\n')
    assert "Paste" not in out  # it may go to a file
    assert not list(Path().glob("*.html"))


def test_a_named_file_is_written_over(run, tmp_path):
    Path("old.html").write_text("old")
    assert run("robot.yml", "-o", "old.html") == (
        0,
        f"The graph is in {(tmp_path / 'old.html').as_uri()}\n",
        "",
    )
    assert Path("old.html").stat().st_size > 100_000
    assert run("robot.yml", "--mermaid", "-o", "graph.mmd") == (0, "The flowchart is in graph.mmd\n", "")
    assert Path("graph.mmd").read_text().startswith("flowchart LR\n")
    assert not list(Path().glob("robot-graph*"))
    assert run("robot.yml", "-o", "no/such/graph.html")[::2] == (
        1,
        "error: cannot write no/such/graph.html: No such file or directory\n",
    )


def test_a_named_link_or_device_is_written_to_and_stays(run):
    Path("shared").mkdir()
    Path("graph.html").symlink_to("shared/graph.html")
    assert run("robot.yml", "-o", "graph.html")[0] == 0
    assert Path("graph.html").is_symlink()
    assert Path("shared/graph.html").stat().st_size > 100_000
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("robot.yml", "--mermaid", "-o", "pipe")[0] == 0
        assert Path("pipe").is_fifo()
        assert os.read(reader, 1000).startswith(b"flowchart LR\n")
    finally:
        os.close(reader)


def test_a_dash_is_the_standard_output(run):
    status, out, err = run("robot.yml", "-o", "-")
    assert (status, out[:15], err) == (0, "<!doctype html>", "") and out.endswith("</html>\n")
    assert run("robot.yml", "--mermaid", "-o", "-") == (0, run("robot.yml", "--mermaid")[1], "")
    assert [str(path) for path in Path().iterdir()] == ["robot.yml"]
    status, _, err = run("robot.yml", "-o", "-", "--open")
    assert status == 2 and "-o - writes no file that --open could show" in err


def test_open(run, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)
    status, out, _ = run("robot.yml", "--open")
    assert status == 0 and out.endswith(f" {opened[0]}\n")
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    status, _, err = run("robot.yml", "--open")
    assert (status, err) == (
        1,
        "error: no browser found to open the page; it is in robot-graph.1.html\n",
    )


def test_wrong_usage_prints_one_sentence(run):
    assert run("robbot.yml")[::2] == (
        1,
        "error: there is no file `robbot.yml`; did you mean `robot.yml`?\n",
    )
    status, _, err = run("robot.yml", "--mermaid", "--open")
    assert status == 2 and err.startswith("error: --mermaid writes no page")

    long = "x" * 248  # with "-graph.html" it is too long for a file name
    Path(f"{long}.yml").write_text(FLOW)
    status, _, err = run(f"{long}.yml")
    assert (status, err) == (1, f"error: cannot write {long}-graph.html: File name too long\n")


def test_the_shipped_page_is_built_from_the_sources():
    front_end = ROOT / "frontend"
    sources = [front_end / "build.mjs", front_end / "package-lock.json", *sorted(front_end.glob("src/*"))]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    for name in ("graph.html", "dashboard.html"):
        page = (ROOT / "src/dora/assets" / name).read_text()
        assert f"<!-- built from {digest} -->" in page, "run `npm ci && npm run build` in frontend/"


def test_licences_of_bundled_libraries_are_named():
    locked = json.loads((ROOT / "frontend/package-lock.json").read_text())["packages"]
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"].split(" AND ")
    licences = {"Apache-2.0", "EPL-2.0"}
    for file, asset in (("d3.txt", "graph.html"), ("dashboard.txt", "dashboard.js")):
        notices = (ROOT / "licenses" / file).read_text()
        text = (ROOT / "src/dora/assets" / asset).read_text()
        built_in = {name for line in re.findall("Contains (.*)\\.", notices) for name in line.split(", ")}
        assert "d3-zoom" in built_in
        licences |= {locked[f"node_modules/{name}"]["license"] for name in built_in}
        assert notices.strip() in text and "licence EPL-2.0" in text
    assert set(named) == licences
    assert "Eclipse Public License - v 2.0" in (ROOT / "licenses/elkjs.md").read_text()
