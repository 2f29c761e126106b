"""Nodes whose path is a URL, from a real server."""

import hashlib
import http.server
import os
import shutil
import socket
import stat
import threading

import pytest

import dora
import dora.dataflow
from dora.daemon.build.build import build_dataflow
from dora.daemon.build.node_sources import FetchFailed, fetch
from dora.daemon.options import BuildOptions
from dora.errors import BuildError


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which its files are."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def flow(tmp_path):
    def load(url, *fields):
        text = "\n    ".join([f"path: {url}", *fields])
        file = tmp_path / "dataflow.yml"
        file.write_text(f"nodes:\n  - id: n\n    {text}\n")
        return dora.dataflow.load(file)

    return load


def build(dataflow, **options):
    """Build, and return the text of the node's file and what was said."""
    entries = []
    build_dataflow(dataflow, entries.append, BuildOptions(**options))
    path = os.path.join(dataflow.working_dir, dataflow.nodes[0].path)
    with open(path) as file:
        return file.read(), [entry.message for entry in entries]


def checksum(text):
    return f"path_sha256: {hashlib.sha256(text.encode()).hexdigest()}"


def test_how_far_a_download_is_can_be_seen(flow, served):
    folder, address = served
    (folder / "node.py").write_text("one")
    seen = []
    build_dataflow(flow(f"{address}/node.py"), lambda _: None, on_build=seen.append)
    work = seen[0].work_of("n")
    assert (work.done, work.total) == (3, 3)


@pytest.mark.parametrize("path", [".dora", ".dora/downloads", ".dora/.gitignore/x"])
def test_a_folder_that_cannot_be_made_is_a_sentence(flow, served, path, tmp_path):
    folder, address = served
    (folder / "node.py").write_text("one")
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("in its place")
    if path.endswith("/x"):
        build(flow(f"{address}/node.py"))  # a folder in place of the file for git does no harm
        return
    with pytest.raises(BuildError, match=rf"{path}(/\S+)? cannot be used: Not a directory"):
        build(flow(f"{address}/node.py"))


def test_a_server_may_give_a_length_that_is_no_number(flow, served, monkeypatch):
    folder, address = served
    (folder / "node.py").write_text("one")
    handler = http.server.SimpleHTTPRequestHandler
    send_header = handler.send_header
    monkeypatch.setattr(
        handler,
        "send_header",
        lambda self, name, value: send_header(self, name, "some" if name == "Content-Length" else value),
    )
    assert build(flow(f"{address}/node.py"))[0] == "one"


def test_a_file_is_downloaded_by_builds_and_kept_by_runs(flow, served):
    folder, address = served
    (folder / "node.py").write_text("one")
    dataflow = flow(f"{address}/node.py?x=1")
    assert dora.dataflow.missing_files(dataflow) == []
    assert dataflow.nodes[0].path.endswith("/node.py")
    assert build(dataflow) == ("one", [f"downloading {address}/node.py?x=1"])
    (folder / "node.py").write_text("two")
    assert build(dataflow) == ("one", [])
    assert build(dataflow, update=True, offline=True) == ("one", [])
    assert build(dataflow, update=True)[0] == "two"
    mode = os.stat(os.path.join(dataflow.working_dir, dataflow.nodes[0].path)).st_mode
    assert mode & stat.S_IXUSR


def test_a_checksum_decides_what_is_run(flow, served):
    folder, address = served
    (folder / "node.py").write_text("one")
    dataflow = flow(f"{address}/node.py", checksum("one"))
    assert dataflow.warnings == ()
    assert build(dataflow)[0] == "one"
    (folder / "node.py").write_text("two")
    assert build(dataflow, update=True) == ("one", [])
    path = os.path.join(dataflow.working_dir, dataflow.nodes[0].path)
    with open(path, "w") as file:
        file.write("changed")
    with pytest.raises(BuildError, match=r"dataflow.yml:2:5: .* has a wrong checksum: its SHA-256 is 3fc4"):
        build(dataflow)
    with pytest.raises(BuildError, match="has a wrong checksum"):
        build(flow(f"{address}/node.py", checksum("three")))
    assert len(os.listdir(os.path.dirname(path))) == 1


def test_a_failed_download_is_reported_with_its_reason(flow, served):
    _, address = served
    with pytest.raises(BuildError, match="which node `n` runs, cannot be downloaded: the server says 404"):
        build(flow(f"{address}/gone.py"))
    with pytest.raises(BuildError, match=r"cannot be downloaded: .*refused"):
        build(flow("http://127.0.0.1:1/gone.py"))
    with pytest.raises(BuildError, match="is not downloaded yet, and --offline forbids"):
        build(flow(f"{address}/gone.py"), offline=True)


def test_a_download_that_breaks_off_leaves_no_file(flow):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        peer, _ = listener.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nprint()\n")

    thread = threading.Thread(target=serve)
    thread.start()
    dataflow = flow(f"http://127.0.0.1:{listener.getsockname()[1]}/node.py")
    with pytest.raises(BuildError, match="cannot be downloaded: it broke off after 8 of 100 bytes"):
        build(dataflow)
    thread.join()
    listener.close()
    assert os.listdir(os.path.join(dataflow.working_dir, os.path.dirname(dataflow.nodes[0].path))) == []


def test_a_download_that_is_too_large_is_given_up(served, tmp_path):
    folder, address = served
    (folder / "node.py").write_bytes(bytes(3 << 20))
    path = tmp_path / "got"
    with open(path, "wb") as file, pytest.raises(FetchFailed, match="it is larger than 2 MiB"):
        fetch(f"{address}/node.py", file, max_size=2 << 20)
    assert path.stat().st_size <= 2 << 20
    with open(path, "wb") as file:
        fetch(f"{address}/node.py", file, max_size=3 << 20)
    assert path.stat().st_size == 3 << 20


@pytest.mark.parametrize("user", ["me:TOKEN", "TOKEN"])
def test_the_password_of_a_download_is_not_shown(flow, user):
    entries = []
    with pytest.raises(BuildError, match="has a user, and dora logs in nowhere") as caught:
        build_dataflow(flow(f"http://{user}@127.0.0.1:1/node.py"), entries.append)
    assert "TOKEN" not in str(caught.value) + entries[0].message


@pytest.mark.processes
def test_an_operator_is_downloaded_and_run(tmp_path, served, capfd):
    folder, address = served
    code = (
        "from dora import DoraStatus\n\nclass Operator:\n    def on_event(self, event, send_output):\n"
        "        print('the operator runs')\n        return DoraStatus.STOP\n"
    )
    (folder / "operator.py").write_text(code)
    (folder / "other").write_text(code)
    file = tmp_path / "dataflow.yml"
    inputs = "inputs: {tick: dora/timer/millis/10}"
    file.write_text(
        "nodes:\n"
        f"  - id: n\n    operator: {{python: {address}/operator.py, {checksum(code)}, {inputs}}}\n"
        f"  - id: m\n    operators: [{{id: o, python: {{source: '{address}/other'}}, {inputs}}}]\n"
    )
    dora.run(file)
    assert capfd.readouterr().out.count("the operator runs") == 2
    [warning] = dora.dataflow.load(file).warnings
    assert "anybody on the way can exchange it" in warning.message
    assert (warning.line, warning.column) == (5, 42)
    (folder / "operator.py").write_text(f"{code}\n# changed")
    dora.build(file)
    shutil.rmtree(tmp_path / ".dora" / "downloads")
    with pytest.raises(BuildError, match="which node `n` runs, has a wrong checksum"):
        dora.build(file)


def test_a_checksum_of_an_operator_requires_a_url(tmp_path):
    file = tmp_path / "dataflow.yml"
    file.write_text(f"nodes: [{{id: n, operator: {{python: o.py, {checksum('')}}}}}]\n")
    with pytest.raises(dora.DataflowError, match="its `python` is no URL"):
        dora.dataflow.load(file)


def test_a_program_without_checksum_or_encryption_is_a_warning(flow):
    [warning] = flow("http://example.org/node.py").warnings
    assert "anybody on the way can exchange it" in warning.message
    assert flow("https://example.org/node.py").warnings == ()
