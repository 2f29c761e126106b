"""The command line itself: help, versions, errors, exit statuses. Nothing is run."""

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import dora
from dora.cli import compat as later
from dora.cli import main
from dora.cli.main import cli, run_command_line

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capsys):
    """Run a command line in this process: (exit status, stdout, stderr)."""

    def run_line(*arguments):
        status = run_command_line(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_line


def commands():
    """Yield (name, command) for every command that is not of a later version, and those of groups."""
    context = click.Context(cli)
    for name in main.COMMANDS:
        command = cli.get_command(context, name)
        yield name, command
        for part in getattr(command, "commands", {}).values():
            yield f"{name} {part.name}", part


def options_of(command):
    return [option for parameter in command.params for option in parameter.opts + parameter.secondary_opts]


def test_version(run):
    for option in ("--version", "-V"):
        assert run(option) == (0, f"dora {dora.__version__} ({dora.__implementation__})\n", "")


def test_help_lists_exactly_the_working_commands(run):
    status, out, _ = run("--help")
    assert status == 0
    titles = re.escape("|".join(main.GROUPS)).replace(re.escape("|"), "|")
    groups = re.findall(rf"^({titles}):\n((?:  .+\n)+)", out, re.MULTILINE)
    listed = [line.split()[0] for _, lines in groups for line in lines.splitlines()]
    assert listed == list(main.COMMANDS)
    assert run("-h") == run("help") == (0, out, "")


def test_the_table_has_the_descriptions_of_the_commands():
    for name, command in commands():
        if name in main.COMMANDS:
            assert command.name == name
            assert command.get_short_help_str(limit=200) == main.COMMANDS[name][1]


def test_help_of_a_command(run):
    for name in main.COMMANDS:
        status, out, err = run("help", name)
        assert (status, err) == (0, "")
        assert out.startswith(f"Usage: dora {name}")
        assert run(name, "--help") == (0, out, "")


@pytest.mark.processes
def test_help_imports_no_heavy_module():
    unwanted = ("dora.cli.commands.run", "dora.dataflow", "yaml", "pyarrow", "numpy", "asyncio", "iceoryx2")
    code = (
        "import sys; from dora.cli.main import run_command_line; run_command_line(['--help']); "
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_without_a_command_the_help_is_shown_as_an_error(run):
    status, out, err = run()
    assert (status, out) == (2, "")
    assert err.startswith("Usage: dora")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rnu"], "error: there is no command `rnu`; did you mean `dora run`?"),
        (["frobnicate"], "error: there is no command `frobnicate`; `dora --help` lists the commands"),
        (["run"], "error: there is no dataflow.yml in this folder"),
        (["run", "a.yml", "--stop-after", "soon"], "`soon` is not a duration"),
        (["run", "a.yml", "--stop-after=-1"], "`-1` is not a duration"),
        (["run", "a.yml", "--log-level", "loud"], "unknown log level `loud`"),
        (["run", "a.yml", "--log-filter", "cam"], "`cam` is not node=level"),
        (["run", "a.yml", "--log-format", "xml"], "'xml' is not one of"),
        (["run", "a.yml", "--env", "A"], "`A` is not KEY=VALUE"),
        (["run", "a.yml", "--env", "A=007"], "the number 7"),
        (["run", "a.yml", "--engine", "pigeon"], "'pigeon' is not one of"),
        (["run", "a.yml", "--exit-when-nodes-finish=maybe"], "'maybe' is neither true nor false"),
        (["up", "--coordinator-port", "x"], "'x' is not a whole number"),
        (["daemon", "--interface", "eth0"], "`eth0` is not an IP address"),
        (["daemon", "--link-port", "65536"], "65536 is not in the range 0<=x<=65535"),
        (["run", "--on", "r", "--link-port", "65536"], "65536 is not in the range 0<=x<=65535"),
        (["daemon", "--link-port", "none"], "'none' is not a whole number"),
        (["daemon", "--labels", "a=1,a=2"], "the label `a` is given twice"),
        (["topic", "hz", "--window", "soon"], "`soon` is not a duration"),
        (["topic", "hz", "--window", "0"], "--window must be longer than 0"),
        (["stop", "--grace-duration", "2d"], "`2d` is longer than a day"),
        (["run", "a.yml", "--locked", "--write-lockfile"], "--write-lockfile contradict each other"),
        (["build", "a.yml", "--lockfile", "b.yml"], "--lockfile goes with --locked or --write-lockfile"),
        (
            ["run", "a.yml", "--hub-override", "a=b"],
            "does not have --hub-override yet; give the node a",
        ),
        (["build", "a.yml", "--hub-override", "a=b"], "does not have --hub-override yet"),
        (["validate", "a.yml", "--node-manifest", "x"], "--node-manifest cannot be used together"),
        (["run", "a.yml", "b.yml"], "unexpected extra argument"),
        (["help", "frobnicate"], "there is no command `frobnicate`"),
    ],
)
def test_usage_errors_are_one_sentence_and_exit_2(run, arguments, says):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and says in err.splitlines()[0]
    assert "Traceback" not in err


@pytest.mark.parametrize("group", ["param", "topic", "node", "trace", "cluster", "inspect", "system"])
def test_a_group_without_its_command_shows_its_help(run, group):
    status, out, err = run(group)
    assert (status, out) == (2, "")
    assert err.startswith(f"Usage: dora {group}")


@pytest.mark.parametrize("name", later.COMMANDS)
def test_unsupported_commands_name_a_replacement(run, name):
    for arguments in ([name], [name, "--some", "option", "-x"], [name, "--help"], ["help", name]):
        status, out, err = run(*arguments)
        assert (status, out) == (1, "")
        assert err.startswith(f"error: this version of dora does not have `dora {name}` yet; ")
        assert len(err.splitlines()) == 1


def test_environment_variables_are_checked_like_options(run, monkeypatch):
    monkeypatch.setenv("DORA_LOG_LEVEL", "loud")
    status, _, err = run("run", "a.yml")
    assert status == 2
    assert "unknown log level `loud`" in err and "DORA_LOG_LEVEL" in err


@pytest.mark.processes
def test_a_file_that_does_not_exist(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("run", "build", "validate"):
        status, _, err = run(command, "nope.yml")
        assert status == 1
        assert err == "error: there is no file `nope.yml`\n"


@pytest.mark.processes
def test_all_problems_of_a_file_are_shown_with_their_lines(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dataflow.yml").write_text(
        "nodes:\n  - id: a\n    pth: a.py\n  - id: a\n    path: b.py\n    oops: 1\n"
    )
    for command in ("run", "build", "validate"):
        status, _, err = run(command, "dataflow.yml")
        assert status == 1
        assert err.startswith("dataflow.yml:")
        assert "dataflow.yml:3:5: error:" in err and "dataflow.yml:6:5: error:" in err


def test_validate(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dataflow.yml").write_text("nodes:\n  - id: a\n    path: a.py\n")
    status, out, err = run("validate")
    assert (status, out.splitlines()) == (
        0,
        [
            "Validating dataflow.yml...",
            "Input/output wiring OK.",
            "Descriptor config OK.",
            "All type annotations OK.",
        ],
    )
    assert "warning" in err and "a.py" in err
    Path("a.py").touch()
    assert run("validate", "dataflow.yml", "--offline") == (0, out, "")
    Path("dataflow.yml").write_text("nodes:\n  - id: a\n    path: no-such-command\n")
    status, out, err = run("validate")
    assert status == 0 and err.startswith("dataflow.yml:3:11: warning: the node `a` cannot be started")


def test_the_schema_command_prints_the_schema_of_the_parser(run):
    from dora.dataflow.json_schema import json_schema

    status, out, _ = run("schema")
    assert (status, json.loads(out)) == (0, json_schema())


def test_errors_are_one_sentence_unless_debugging(run, monkeypatch):
    def fail(*_, **__):
        raise KeyError("inside")

    monkeypatch.setattr("dora.cli.commands.build.load_dataflow", fail)
    monkeypatch.delenv("DORA_DEBUG", raising=False)
    assert run("validate", "a.yml")[::2] == (
        1,
        "error: internal error: KeyError: 'inside' (DORA_DEBUG=1 shows where)\n",
    )
    monkeypatch.setenv("DORA_DEBUG", "1")
    with pytest.raises(KeyError):
        run("validate", "a.yml")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            "/x/y cannot be used: Permission denied",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(run, monkeypatch, error, sentence):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("dora.cli.commands.build.load_dataflow", fail)
    monkeypatch.delenv("DORA_DEBUG", raising=False)
    assert run("validate", "a.yml")[::2] == (1, f"error: {sentence}\n")


@pytest.mark.processes
def test_a_deleted_current_folder_is_reported(run, monkeypatch, tmp_path):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    sentence = "error: the current folder no longer exists; change to another one\n"
    assert run("run", "a.yml") == (1, "", sentence)


def test_too_many_open_files_are_reported_without_a_traceback(run, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("dora.cli.commands.build.load_dataflow", fail)
    monkeypatch.delenv("DORA_DEBUG", raising=False)
    status, _, err = run("validate", "a.yml")
    assert status == 1
    assert err == "error: too many files are open; allow more with `ulimit -n`, or run fewer nodes\n"


def test_an_interrupt_is_no_traceback(run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dora.cli.commands.build.load_dataflow", interrupt)
    assert run("validate", "a.yml")[::2] == (130, "\nerror: interrupted\n")


def test_what_dora_rs_has_and_help_does_not_show_is_documented():
    """The rest is in the generated list of commands."""
    text = (ROOT / "docs" / "migrating-from-dora-rs.md").read_text()
    found = [parameter for _, command in commands() for parameter in command.params]
    options = {parameter.opts[0] for parameter in found if isinstance(parameter, click.Option)}
    shown = {
        parameter.opts[0]
        for parameter in found
        if isinstance(parameter, click.Option) and not parameter.hidden
    }
    for name in (*options - shown, *(f"dora {name}" for name in (*later.COMMANDS, *main.ALIASES))):
        assert f"`{name}`" in text, name


def test_the_bare_flag_does_not_swallow_the_file(monkeypatch):
    seen = {}
    command = dict(commands())["run"]
    monkeypatch.setattr(command, "callback", lambda **values: seen.update(values))
    for arguments, expected in [
        (["--exit-when-nodes-finish", "a.yml"], True),
        (["a.yml", "--exit-when-nodes-finish"], True),
        (["--exit-when-nodes-finish=true", "a.yml"], True),
        (["--exit-when-nodes-finish=false", "a.yml"], False),
        (["a.yml"], None),
    ]:
        command.main(arguments, standalone_mode=False)
        assert (seen["path"], seen["exit_when_nodes_finish"]) == ("a.yml", expected)
