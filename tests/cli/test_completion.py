"""``dora completion``: scripts for shells, and what a real bash completes with one."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from waiting import TIMEOUT

from dora.cli import main
from dora.cli.commands.run import run as command
from dora.cli.completion import dataflow_files, node_levels
from dora.cli.main import run_command_line

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")

FLOW = """
nodes:
  - id: camera
    path: camera.py
  - id: car
    path: car.py
  - id: plot
    path: plot.py
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.yml").write_text(FLOW)
    (tmp_path / "flow.py").touch()
    (tmp_path / "robots").mkdir()
    (tmp_path / "robots" / "arm.yaml").write_text(FLOW)
    return tmp_path


def shell_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which `dora` is the one that is tested."""
    commands = folder / "bin"
    commands.mkdir()
    (commands / "dora").write_text(f'#!/bin/sh\nexec {sys.executable} -m dora "$@"\n')
    (commands / "dora").chmod(0o755)
    return {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}


def complete_in_bash(folder: Path, *lines: str) -> list[list[str]]:
    """Return what bash offers at the end of each command line, after reading our script.

    Programmable completion calls the function with these variables, so that no terminal is needed.
    """
    script = (
        'eval "$(dora completion bash)"\nfunction=$(complete -p dora | sed "s/.*-F \\([^ ]*\\).*/\\1/")\n'
    )
    script += "compopt() { :; }\n"  # bash allows it in a completion that a terminal asked for only
    for line in lines:
        words = line.split(" ")
        script += f"COMP_WORDS=({' '.join(repr(word) for word in words)})\n"
        script += f"COMP_CWORD={len(words) - 1}\nCOMPREPLY=()\n$function dora\n"
        script += 'printf "%s\\n" "${COMPREPLY[@]}"; echo ---\n'
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=folder,
        env=shell_environment(folder),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [block.split() for block in done.stdout.split("---\n")[:-1]]


@pytest.mark.processes
@needs_bash
def test_a_tab_in_a_terminal_completes_files_and_folders(folder: Path) -> None:
    shown = ""
    master, slave = pty.openpty()
    environment = {**shell_environment(folder), "PS1": "> ", "TERM": "dumb", "HISTFILE": ""}
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=folder,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)

    def type_and_wait(keys: str, expected: str) -> None:
        nonlocal shown
        os.write(master, keys.encode())
        shown, deadline = "", time.monotonic() + TIMEOUT
        while expected not in shown:
            assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], shown
            shown += os.read(master, 4096).decode(errors="replace")

    try:
        type_and_wait('eval "$(dora completion bash)" && echo rea""dy\n', "ready")
        type_and_wait("dora val\t", "validate ")
        type_and_wait("fl\t", "flow.yml")
        type_and_wait("\x15dora graph ro\t", "robots/")
        type_and_wait("\t", "arm.yaml")
    finally:
        bash.kill()
        bash.wait()
        os.close(master)


@pytest.mark.processes
@needs_bash
def test_a_real_bash_completes(folder: Path) -> None:
    commands, files, inner, options, nodes, help_of = complete_in_bash(
        folder,
        "dora ",
        "dora run f",
        "dora graph robots/",
        "dora graph flow.yml --m",
        "dora run flow.yml --log-filter ca",
        "dora help gr",
    )
    assert commands == list(main.COMMANDS)
    assert files == ["flow.yml"]
    assert inner == ["robots/arm.yaml"]
    assert options == ["--mermaid"]
    assert nodes[:2] == ["camera=error", "camera=warn"] and "car=info" in nodes
    assert not any(pair.startswith("plot") for pair in nodes)
    assert help_of == ["graph"]


@pytest.mark.processes
def test_completing_commands_imports_no_command() -> None:
    code = (
        "import sys; from dora.cli.main import run_command_line\n"
        "try: run_command_line([])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('dora.cli.')])"
    )
    variables = {"_DORA_COMPLETE": "bash_complete", "COMP_WORDS": "dora ", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "plain,graph" in done.stdout
    assert done.stdout.splitlines()[-1] == "['dora.cli.main']"


@pytest.mark.processes
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_that_of_the_shell(shell: str, monkeypatch, capsys) -> None:
    assert run_command_line(["completion", shell]) == 0
    named = capsys.readouterr().out
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert run_command_line(["completion"]) == 0
    assert capsys.readouterr().out == named
    assert f"_DORA_COMPLETE={shell}_complete" in named
    if shutil.which(shell):
        subprocess.run([shell, "-n", "-c", named], check=True, timeout=TIMEOUT)


def test_other_shells_are_refused_in_a_sentence(monkeypatch, capsys) -> None:
    assert run_command_line(["completion", "elvish"]) == 2
    assert "'elvish' is not one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err
    monkeypatch.setenv("SHELL", "/bin/dash")
    assert run_command_line(["completion"]) == 1
    assert capsys.readouterr().err == (
        "error: $SHELL is `dash`; name the shell: `dora completion bash`, or zsh, or fish\n"
    )
    monkeypatch.delenv("SHELL")
    assert run_command_line(["completion"]) == 1
    assert "$SHELL is not set" in capsys.readouterr().err


def test_files_that_cannot_be_read_complete_to_nothing(folder: Path) -> None:
    (folder / "broken.yml").write_text("nodes: [")
    for path in ("broken.yml", "missing.yml", "flow.py", None):
        context = click.Context(command)
        context.params["path"] = path
        assert node_levels(context, command.params[0], "") == []
    offered = dataflow_files(click.Context(command), command.params[0], "nowhere/x")
    assert [(item.type, item.value) for item in offered] == [("dir", "nowhere/x")]


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_dataflow_file_is_completed(name: str, folder: Path) -> None:  # noqa: ARG001 - it is the current one
    found = main.cli.get_command(click.Context(main.cli), name)
    assert found is not None
    for param in found.params:
        if isinstance(param, click.Argument) and param.metavar in ("FILE", "[FILE]"):
            offered = param.shell_complete(click.Context(found), "f")
            assert [item.value for item in offered] == ["f", "flow.yml"]
