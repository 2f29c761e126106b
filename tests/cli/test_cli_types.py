"""What ``dora validate`` and ``dora build`` say about types."""

import pytest

from dora.cli.main import run_command_line

GOOD = """nodes:
  - id: a
    path: dynamic
    outputs: [x]
    output_types: {x: std/core/v1/Float32}
  - id: b
    path: dynamic
    inputs: {i: a/x, j: a/x}
    input_types: {i: std/core/v1/Float64}
"""
BAD = GOOD.replace("Float64", "Int8")


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run_line(text, *arguments):
        (tmp_path / "flow.yml").write_text(text)
        status = run_command_line([*arguments, "flow.yml"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_line


def test_types_that_fit(run):
    for strict in ((), ("--strict-types",)):
        status, out, err = run(GOOD, "validate", *strict)
        assert (status, err) == (0, "")
        assert out.splitlines()[1:] == [
            "Input/output wiring OK.",
            "Descriptor config OK.",
            "  inferred std/core/v1/Float32 on b/j (from a/x)",
            "All type annotations OK.",
        ]


def test_types_that_do_not_fit_are_listed(run):
    status, out, err = run(BAD, "validate")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[4:6] == [
        "Type warnings:",
        "flow.yml:9:22: warning: the input `i` of node `b` expects `std/core/v1/Int8`, "
        "but `a/x` sends `std/core/v1/Float32`",
    ]
    assert lines[-1] == "1 type warning(s) found."


@pytest.mark.parametrize("command", ["validate", "build"])
def test_strict_types_are_errors(run, command):
    for text, arguments in ((BAD, ["--strict-types"]), (f"strict_types: true\n{BAD}", [])):
        status, out, err = run(text, command, *arguments)
        assert status == 1
        assert "error: the input `i` of node `b` expects" in err
        assert "wiring OK" not in out


def test_a_build_warns(run):
    status, _, err = run(BAD, "build")
    assert status == 0
    assert err.count("warning: the input `i` of node `b` expects") == 1


def test_a_manifest_file_can_be_checked(capsys, tmp_path):
    manifest = tmp_path / "dora-node.yml"
    text = "apiVersion: 1\nnamespace: me\nruntime: python\nentrypoint: main.py\n"
    manifest.write_text(text)
    assert run_command_line(["validate", "--node-manifest", str(manifest)]) == 0
    assert capsys.readouterr().out == f"Validating node manifest {manifest}...\nNode manifest OK.\n"
    manifest.write_text(text.replace("python", "pyton"))
    assert run_command_line(["validate", "--node-manifest", str(manifest)]) == 1
    captured = capsys.readouterr()
    assert "OK" not in captured.out
    assert captured.err.startswith(f"{manifest}:3:10: error: `pyton` is not one of")
