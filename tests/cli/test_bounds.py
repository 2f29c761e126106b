"""Input that has no end, no limit or no sense: one sentence, in bounded time, whatever command gets it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dora.cli.main import run_command_line

BAD = b"\xff\xfe"  # is not UTF-8
TIMEOUT = 60.0  # seconds; each takes some tenths of one
OK = "nodes:\n  - {id: a, path: a.py, inputs: {t: dora/timer/millis/10}, outputs: [o]}\n"
NODE = "from dora import Node\nfor event in Node():\n    print('x')\n    break\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bounds")
    (folder / "a.py").write_text(NODE)
    (folder / "ok.yml").write_text(OK)
    (folder / "bad.yml").write_text("nodes:\n  - {id: a, path: a.py, inputs: {t: nobody/o}}\n")
    (folder / "module.yml").write_text("nodes:\n  - {id: a, module: fifo}\n")
    (folder / "locked.yml").write_text("nodes:\n  - {id: a, path: a.py}\n")
    (folder / "locked.dora-lock.yaml").symlink_to("/dev/zero")
    (folder / "variable.yml").write_text("nodes:\n  - {id: a, path: a.py, env: {X: $ODD}}\n")
    (folder / "types").mkdir()
    os.mkfifo(folder / "types" / "my.yml")
    (folder / "typed.yml").write_text(
        "nodes:\n  - {id: a, path: a.py, outputs: [o], output_types: {o: my/v1/A}}\n"
    )
    os.mkfifo(folder / "fifo")
    with open(folder / "huge.yml", "wb") as file:
        file.truncate(10 << 30)  # a hole: it takes no room
    return folder


def dora(folder: Path, script: str, **variables: Any) -> tuple[int, bytes]:
    """Run a line of shell in which $D is the dora command; return the status and all output."""
    environ = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
    environ |= {b"D": os.fsencode(f"{sys.executable} -m dora"), b"DORA_COORDINATOR_PORT": b"6"}
    environ |= {name.encode(): value for name, value in variables.items()}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
    )
    return done.returncode, done.stdout


def check(folder: Path, table: list[tuple[str, int, str]], **variables: Any) -> None:
    """Run all lines of a table, two at a time, and compare status and a part of the output."""

    def run(row: tuple[str, int, str]) -> str:
        script, wanted, words = row
        try:
            status, output = dora(folder, script, **variables)
        except subprocess.TimeoutExpired:
            return f"{script}: never ended"
        text = output.decode(errors="replace")
        good = status == wanted and words in text
        if good and "internal error" not in text and "Traceback" not in text:
            return ""
        return f"{script}: status {status}, not {wanted}; {text[-400:]}"

    with ThreadPoolExecutor(2) as pool:
        assert [fault for fault in pool.map(run, table) if fault] == []


@pytest.mark.slow
@pytest.mark.processes
def test_a_path_that_is_not_a_file_is_refused_at_once(folder: Path) -> None:
    check(
        folder,
        [
            ("$D validate /dev/zero", 1, "error: `/dev/zero` is a device, not a file"),
            ("$D validate fifo", 1, "error: `fifo` is a pipe, not a file"),
            ("$D validate .", 1, "is a folder"),
            ("$D validate huge.yml", 1, "error: `huge.yml` is larger than 16 MiB"),
            ("$D validate module.yml", 1, "module.yml:2:21: error: `fifo` is a pipe"),
            ("$D validate typed.yml", 0, "types/my.yml` is a pipe"),
            ("$D validate --node-manifest fifo", 1, "is a pipe"),
            ("$D expand --module fifo", 1, "is a pipe"),
            ("$D graph fifo", 1, "is a pipe"),
            ("$D run fifo", 1, "is a pipe"),
            ("$D build --locked locked.yml", 1, "is a device"),
            ("$D run --locked --lockfile fifo ok.yml", 1, "is a pipe"),
            ("$D cluster status fifo", 1, "is a pipe"),
            ("$D info fifo", 2, "is a pipe"),
            ("$D diff fifo fifo", 2, "is a pipe"),
            ("$D replay fifo", 2, "is a pipe"),
            ("$D export fifo --parquet x", 2, "is a pipe"),
            ("DORA_COORDINATOR_CA=fifo $D list", 2, "is a pipe"),
            ("$D coordinator --tls-cert fifo --tls-key fifo", 2, "is a pipe"),
            ("$D topic pub a/o --file fifo", 1, "is a pipe"),
        ],
    )


@pytest.mark.processes
def test_a_pipe_that_delivers_a_dataflow_is_read_to_a_limit(folder: Path) -> None:
    check(
        folder,
        [
            ("cat ok.yml | $D validate /dev/stdin", 0, "Input/output wiring OK."),
            ("cat ok.yml | $D expand /dev/stdin", 0, "id: a"),
            ("$D validate <(cat ok.yml)", 0, "Input/output wiring OK."),
            ("$D validate /dev/stdin < /dev/zero", 1, "larger than 16 MiB"),
            ("$D validate <(cat /dev/zero)", 1, "larger than 16 MiB"),
        ],
    )


@pytest.mark.slow
@pytest.mark.processes
def test_closed_and_full_streams_are_no_internal_errors(folder: Path) -> None:
    full = "error: cannot write to standard output: No space left on device"
    check(
        folder,
        [
            ("$D run ok.yml >&-", 0, ""),
            ("$D run ok.yml 2>&-", 0, "stdout a:    x"),
            ("$D run ok.yml <&- >&- 2>&-", 0, ""),
            ("$D run ok.yml > /dev/full", 0, "standard output takes no more"),
            ("$D validate ok.yml >&-", 0, ""),
            ("$D validate ok.yml > /dev/full", 1, full),
            ("$D validate bad.yml 2>&-", 1, "Validating"),
            ("$D validate bad.yml 2> /dev/full", 1, "Validating"),
            ("$D validate typed.yml 2> /dev/full", 0, "wiring OK"),
            ("$D schema >&-", 0, ""),
            ("$D schema > /dev/full", 1, full),
            ("$D --help >&-", 0, ""),
            ("$D --help > /dev/full", 1, full),
            ("$D --version > /dev/full", 1, full),
            ("$D expand ok.yml >&-", 0, ""),
            ("$D graph ok.yml --mermaid > /dev/full", 1, full),
            ("$D completion bash >&-", 0, ""),
            ("$D build ok.yml >&-", 0, ""),
            ("$D status >&-", 1, "System check failed"),
            ("$D list 2> /dev/full", 1, ""),
            ("$D no-command 2>&-", 2, ""),
        ],
    )


@pytest.mark.processes
def test_bytes_that_are_not_utf8_are_refused_in_one_sentence(folder: Path) -> None:
    fault = "error: an argument is not UTF-8, which dora requires of all texts and file names: \\xff\\xfe"
    lines = [
        "validate BAD.yml",
        "run BAD",
        "run ok.yml --env A=BAD",
        "start ok.yml --name BAD",
        "build BAD",
        "expand BAD",
        "new BAD",
        "logs BAD",
        "stop BAD",
        "restart --name BAD",
        "topic echo BAD",
        "param set a b BAD",
        "record BAD -o BAD",
        "info BAD",
        "replay BAD",
        "cluster status BAD",
        "coordinator --interface BAD",
        "daemon --machine-id BAD",
        "list --coordinator-addr BAD",
        "BAD",
    ]
    check(folder, [(f"$D {line}".replace("BAD", "$'\\xff\\xfe'"), 2, fault[:40]) for line in lines])
    check(folder, [("$D info $'\\xff\\xfe'", 2, fault)])
    check(folder, [("$D run ok.yml", 2, "DORA_RUNTIME_DIR is not UTF-8")], DORA_RUNTIME_DIR=BAD)
    check(folder, [("$D list", 2, "DORA_AUTH_TOKEN is not UTF-8")], DORA_AUTH_TOKEN=BAD)
    check(folder, [("$D run variable.yml", 1, "variable.yml:2:34: error: the value of `X`")], ODD=BAD)


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DORA_COORDINATOR_PORT", "6")
    yield folder


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "address",
    ["", " ", "../../x", "a\nb", "http://x", "localhost:6013", "\u2603", "a..b", "-x", "a" * 300, "1@x"],
)
@pytest.mark.parametrize("command", ["list", "status", "daemon", "up", "down"])
def test_an_invalid_address_is_reported_in_one_sentence(
    capfd: pytest.CaptureFixture[str], address: str, command: str
) -> None:
    assert run_command_line([command, "--coordinator-addr", address]) == 2
    error = capfd.readouterr().err
    assert "is neither an IP address nor the name of a host; the port is given apart" in error
    assert "internal" not in error


@pytest.mark.usefixtures("here")
def test_an_interface_that_is_none_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["coordinator", "--interface", ""]) == 2
    assert "is neither an IP address" in capfd.readouterr().err


MANY = "9" * 400


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "ok.yml", "--stop-after", "1e999"], "is not a duration"),
        (["run", "ok.yml", "--stop-after", "nan"], "is not a duration"),
        (["run", "ok.yml", "--stop-after", "9" * 120_000 + "x"], "is not a duration"),
        (["run", "ok.yml", "--grace-duration", "9" * 30], "is longer than 1000000000 seconds"),
        (["run", "ok.yml", "--stop-after", "99999999999999999999d"], "is longer than"),
        (["logs", "--since", MANY], "is not a duration"),
        (["logs", "--since", "9" * 90], "is longer than"),
        (["logs", "--tail", MANY], "is not in the range"),
        (["topic", "hz", "a/o", "--duration", "9" * 90], "is longer than"),
        (["topic", "echo", "a/o", "--count", MANY], "is not in the range"),
        (["replay", "x.mcap", "--speed", "nan"], "--speed has to be a number"),
        (["diff", "x", "y", "--tolerance", "1" + " " * 100_000 + "x"], "is not a tolerance"),
        (["list", "--coordinator-port", "70000"], "is not in the range"),
    ],
)
def test_numbers_without_sense_are_refused(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run_command_line(arguments) == 2
    error = capfd.readouterr().err
    assert words in error and "internal" not in error


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "value", "arguments"),
    [
        ("DORA_SPIN_US", "x", ["run", "--no-preload", "ok.yml"]),
        ("DORA_SPIN_US", "nan", ["run", "--no-preload", "ok.yml"]),
        ("DORA_SPIN_US", MANY, ["run", "--no-preload", "ok.yml"]),
        ("DORA_ENGINE", "x", ["run", "--no-preload", "ok.yml"]),
        ("DORA_FINISH_DRAIN_GRACE_SECS", "1e300", ["run", "--no-preload", "ok.yml"]),
        ("DORA_UNREACHABLE_AFTER", "x", ["coordinator"]),
        ("DORA_UNREACHABLE_AFTER", "nan", ["coordinator"]),
    ],
)
def test_variables_without_sense_are_named(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    value: str,
    arguments: list[str],
) -> None:
    monkeypatch.setenv(name, value)
    assert run_command_line(arguments) == 1
    error = capfd.readouterr().err
    assert error.startswith(f"error: {name} is `{value[:50]}")
