"""The settings of tools that no other test uses: CI, pre-commit, changelog fragments, make targets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
KINDS = ("added", "changed", "fixed", "removed")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.processes
def test_the_ci_workflow_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run(
        [*command, ".github/workflows/ci.yml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_tests_every_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    declared = re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert set(declared) <= set(tested)


def test_ci_runs_commands_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = {step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}
    known = {".ci/run"} | {f"make {target}" for target in make_targets()}
    assert commands <= known


def test_pre_commit_runs_the_tools_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    programs = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    linted = re.findall(
        r"^\t\$\(BIN\)/(\w+)",
        re.search(r"^lint:.*?\n\n", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)[0],  # type: ignore[index]
        re.MULTILINE,
    )
    assert set(linted) <= programs


def test_every_make_target_that_is_documented_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "README.md").read_text()
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= make_targets()


def test_changelog_fragments_have_a_kind_and_a_text() -> None:
    for file in (ROOT / "changelog.d").iterdir():
        if file.name not in ("README.md", "template.md"):
            assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(KINDS)})\.md", file.name), file.name
            assert file.read_text().strip(), file.name
