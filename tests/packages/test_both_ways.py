"""Packages of robotics and AI start alike from a template process and plainly, by default and named.

Each is imported by three nodes with the same program (`both_ways/probe.py`): from the template, from the
template with the package in `preload`, and plainly. What each finds of its process is compared. With
``DORA_WRITE_DOCS=1``, the table of results is written into the manual. ``DORA_PACKAGES_FOLDER`` names a
folder in which environments are kept, so that the next run need not install them again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from dora.daemon.processes.interpreter import find_uv

sys.path.insert(0, str(Path(__file__).parent / "both_ways"))

from packages import ENVIRONMENTS, Package

pytestmark = [
    pytest.mark.packages,
    pytest.mark.processes,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="templates need Linux"),
]

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).parent / "both_ways" / "probe.py"
PAGE = ROOT / "docs" / "reference" / "two-ways-to-start-a-node.md"
MARKERS = ("<!-- packages -->", "<!-- /packages -->")
WAYS: dict[str, dict[str, Any]] = {"default": {}, "named": {}, "plain": {"preload": False}}
NOTHING = Package("nothing", "keyword")  # a module of Python that does nothing
TIME = 1500.0  # seconds for all of it; a package that is left then is a failure
NO_TIME = "no time was left"
AT_ONCE = 4  # packages in one dataflow: each needs memory three times


@dataclass
class Found:
    """What was found of one package."""

    package: Package
    version: str = ""
    skipped: str = ""  # why it was not tried
    late: bool = False  # there was no time for it
    named_plainly: str = ""  # why its node starts plainly although it is named
    differences: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """Install all packages, and start each in all ways."""
    kept = os.environ.get("DORA_PACKAGES_FOLDER")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("packages")
    deadline = time.monotonic() + TIME
    results = []
    for name, packages in ENVIRONMENTS.items():
        place = folder / name
        missing = _install(place, packages, deadline)
        for package, why in missing.items():
            results.append(Found(package, skipped=why, late=why == NO_TIME))
        installed = [package for package in packages if package not in missing]
        for number in range(0, len(installed), AT_ONCE):
            chunk = installed[number : number + AT_ONCE]
            if time.monotonic() < deadline:
                results += _compare(place, chunk, deadline)
            else:
                results += [Found(package, skipped=NO_TIME, late=True) for package in chunk]
    for result in results:
        if result.skipped:
            print(f"skipped {result.package.requirement}: {result.skipped}")
    if os.environ.get("DORA_WRITE_DOCS") and not any(result.late for result in results):
        _write(table(results))
    return results


def test_nodes_that_import_a_package_are_alike(found: list[Found]) -> None:
    tried = [result for result in found if not result.skipped]
    assert tried, "no package could be installed"
    assert [item.package.requirement for item in found if item.late] == [], "there was no time for them"
    unknown = {
        item.package.requirement: [
            text for text in item.differences if text.split(": ")[1] not in item.package.differs
        ]
        for item in tried
    }
    assert {name: texts for name, texts in unknown.items() if texts} == {}


# --------------------------------------------------------------------------- installation


def _install(place: Path, packages: tuple[Package, ...], deadline: float) -> dict[Package, str]:
    """Make an environment with dora and packages; return why some are not there.

    PyTorch comes by pip, which may be told where builds without CUDA are.
    """
    uv = find_uv()
    assert uv is not None, "uv is not installed"
    python = f"{place}/bin/python"
    if not os.path.exists(python):
        subprocess.run(
            [uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(place)], check=True
        )
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with_uv = [uv, "pip", "install", "--quiet", "--python", python]
    install = pip if any(package.requirement == "torch" for package in packages) else with_uv
    _run([*with_uv, "--editable", str(ROOT)], TIME)
    if not _run([*install, *(package.requirement for package in packages)], deadline - time.monotonic()):
        return {}
    failed = {}
    for package in packages:
        if error := _run([*install, package.requirement], deadline - time.monotonic()):
            failed[package] = error
    return failed


def _run(command: list[str], seconds: float) -> str:
    """Run a command; return why it has failed, "" if it has not."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=max(1.0, seconds), check=False
        )
    except subprocess.TimeoutExpired:
        return NO_TIME
    return (done.stderr.strip() or "it cannot be installed").splitlines()[-1] if done.returncode else ""


# --------------------------------------------------------------------------- comparison


def _compare(place: Path, packages: list[Package], deadline: float) -> list[Found]:
    """Start nodes of packages in all ways, in one dataflow, and compare what they find."""
    work = place / "work"
    work.mkdir(exist_ok=True)
    for file in work.glob("*.json"):
        file.unlink()
    nodes = [
        {
            "id": f"{package.requirement}-{way}",
            "path": str(PROBE),
            "args": [package.module, str(_facts_of(work, package, way)), package.use],
            **({"preload": [package.module]} if way == "named" else fields),
        }
        for package in (NOTHING, *packages)
        for way, fields in WAYS.items()
    ]
    (work / "dataflow.yml").write_text(yaml.safe_dump({"nodes": nodes}))
    seconds = max(30, int(deadline - time.monotonic()))
    done = subprocess.run(
        [f"{place}/bin/dora", "run", "dataflow.yml", "--preload", "--stop-after", f"{seconds}s"],
        cwd=work,
        env={**os.environ, "RUST_LOG": "dora.daemon.spawn=debug", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    plainly = dict(re.findall(r"node `(\S+)` starts plainly: (.*)", done.stderr))
    usual = {way: _read(_facts_of(work, NOTHING, way)) for way in WAYS}
    output = done.stdout + done.stderr
    return [_found(work, package, usual, plainly, output) for package in packages]


def _facts_of(work: Path, package: Package, way: str) -> Path:
    return work / f"{package.requirement}-{way}.json"


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text()) if file.exists() else None


def _found(
    work: Path,
    package: Package,
    usual: dict[str, dict[str, Any] | None],
    plainly: dict[str, str],
    output: str,
) -> Found:
    result = Found(package, named_plainly=plainly.get(f"{package.requirement}-named", ""))
    facts = {way: _read(_facts_of(work, package, way)) for way in WAYS}
    plain, usual_plain = facts["plain"], usual["plain"]
    if all(item is None for item in facts.values()):
        result.skipped, result.late = "its nodes have not come to their end in time", True
        return result
    for way in ("default", "named"):
        forked = facts[way]
        usual_forked = usual["plain" if forked is not None and forked["way"] == "plain" else "default"]
        if forked is None or plain is None or usual_forked is None or usual_plain is None:
            lines = [line for line in output.splitlines() if f"{package.requirement}-" in line]
            result.differences.append(f"{way}: only one way came to its end: {lines[-5:]}")
            continue
        result.version = plain["version"]
        if way == "default" and forked["way"] != "forked":
            result.differences.append("it was not forked by default")
        result.differences += [
            f"{way}: {item}" for item in differences(forked, plain, usual_forked, usual_plain)
        ]
    return result


def differences(
    forked: dict[str, Any], plain: dict[str, Any], usual: dict[str, Any], usual_plain: dict[str, Any]
) -> list[str]:
    """Return what differs between two ways, apart from what differs without any package."""
    found = []
    for name in sorted(forked.keys() | plain.keys() - {"way"}):
        one, other = forked.get(name), plain.get(name)
        if name == "modules" and one is not None and other is not None:
            more = set(one) - set(other) - (set(usual[name]) - set(usual_plain[name]))
            one, other = sorted(more), sorted(set(other) - set(one))
        elif name == "functions at exit":
            one, other = one - usual[name], other - usual_plain[name]
        if one != other and name != "way":
            found.append(f"{name}: {one!r} instead of {other!r}")
    return found


# --------------------------------------------------------------------------- the table


def table(results: list[Found]) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| package | version | imported by the node | named in `preload` |",
        "| --- | --- | --- | --- |",
    ]
    for result in sorted(results, key=lambda result: result.package.requirement.lower()):
        if not result.skipped:
            by_default = [item for item in result.differences if item.startswith("default")]
            named = [item for item in result.differences if item.startswith("named")]
            of_named = _shown(named) if named or not result.named_plainly else f"plainly: {_why(result)}"
            row = (result.package.requirement, result.version, _shown(by_default), of_named)
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _shown(differences: list[str]) -> str:
    names = ", ".join(item.split(": ")[1] for item in differences)
    return f"differs in {names}" if names else "alike"


def _why(result: Found) -> str:
    """Return why a named package is imported by the node, without what differs between machines."""
    reason = re.sub(r"^importing \S+ ", "it ", result.named_plainly)
    return re.sub(r" /\S*/", " ", reason).replace("|", "\\|")


def _write(text: str) -> None:
    begin, end = MARKERS
    page = PAGE.read_text()
    before, _, rest = page.partition(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


# --------------------------------------------------------------------------- the comparison is able to fail


def test_a_difference_is_found() -> None:
    usual = {"modules": ["a", "dora"], "functions at exit": 3}
    plain = {"modules": ["a"], "functions at exit": 2}
    forked = {"modules": ["a", "dora", "b"], "functions at exit": 5, "x": 1, "way": "forked"}
    other = {"modules": ["a", "c"], "functions at exit": 3, "x": 2, "way": "plain"}
    assert differences(forked, other, usual, plain) == [
        "functions at exit: 2 instead of 1",
        "modules: ['b'] instead of ['c']",
        "x: 1 instead of 2",
    ]
    assert differences(usual, plain, usual, plain) == []
