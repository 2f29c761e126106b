"""Build the documentation site: python tools/site/build.py [FOLDER]

The pages are the Markdown of `docs/`, as GitHub shows it. This script copies them and adds what a site
needs: the navigation, the reference of the Python API (from the docstrings), and a page for each example.
Links to files outside `docs/` lead to copies of these files. Sphinx then builds the copy; each of its
warnings is an error, for example a link without a target.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def how_to_groups(index: str) -> dict[str, list[str]]:
    """Return the groups of how-to guides on the first page: their titles and pages."""
    parts = re.split(r"^###? (.+)$", index, flags=re.MULTILINE)[1:]
    groups = {
        title: re.findall(r"\((how-to/[\w-]+)\.md\)", text)
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: pages for title, pages in groups.items() if pages}


# What the navigation shows: the title of a part, and its pages. A page that is not here is an error.
NAVIGATION = {
    "Start": [
        "start",
        "questions",
        "platforms",
        "concepts",
        "coming-from-ros2",
        "coming-from-lerobot",
        "migrating-from-dora-rs",
        "examples/index",
    ],
    **how_to_groups((ROOT / "docs" / "index.md").read_text()),
    "Reference": [
        "reference/python-api",
        "reference/api/*",
        "reference/testing",
        "reference/builder",
        "reference/dataflow-yaml",
        "reference/commands",
        "reference/run-options",
        "reference/counters",
        "reference/recording-format",
        "reference/quality-of-service",
        "reference/ros2-message-types",
        "reference/two-ways-to-start-a-node",
        "reference/differences",
        "reference/public-files",
        "wire-format",
        "glossary",
    ],
    "Design": ["architecture", "performance", "reliability", "scaling", "compatibility", "design/*"],
    "Contributing": ["contributing", "security", "changelog"],
}

# Pages that are elsewhere in the repository, and where the site has them.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
}

API = {
    "dora": "dora: classes and functions",
    "dora.testing": "dora.testing: classes and functions",
    "dora.builder": "dora.builder: classes and functions",
    "dora.ros2": "dora.ros2: classes and functions",
}

LANGUAGES = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".urdf": "xml", ".toml": "toml"}

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "site", help="default: site/")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="leave the prepared pages in this folder"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dora-site-") as temporary:
        pages = options.keep or Path(temporary, "pages")
        prepare(pages)
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "--quiet",
            "--fail-on-warning",
            "--keep-going",
            "--builder",
            "html",
        ]
        command += [
            "--conf-dir",
            str(HERE),
            "--doctree-dir",
            f"{temporary}/doctrees",
            str(pages),
            str(options.folder),
        ]
        status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(status)
    print(f"open {options.folder / 'index.html'}")


def prepare(pages: Path) -> None:
    """Write into `pages` what Sphinx is to build."""
    shutil.copytree(ROOT / "docs", pages)
    for page in pages.rglob("*.md"):
        page.write_text(relink(page.read_text(), ROOT / "docs" / page.relative_to(pages), pages, page))
    for source, target in PAGES.items():
        if (ROOT / source).exists() and not (pages / target).exists():
            (pages / target).write_text(
                relink((ROOT / source).read_text(), ROOT / source, pages, pages / target)
            )
    for example in examples():
        write_example(example, pages)
    write_index_of_examples(pages)
    for module, title in API.items():
        write_api(module, title, pages)
    with (pages / "index.md").open("a") as index:
        index.write(navigation(pages))


def examples() -> list[Path]:
    return sorted(page.parent for page in (ROOT / "examples").glob("*/README.md"))


def target_of(path: Path, pages: Path) -> Path:
    """Return what in `pages` stands for a file or folder of the repository; copy it if it is no page."""
    if path.is_relative_to(ROOT / "docs"):
        return pages / path.relative_to(ROOT / "docs")
    inside = path.relative_to(ROOT).as_posix()
    if inside in PAGES:
        return pages / PAGES[inside]
    if inside == "examples":
        return pages / "examples" / "index.md"
    if path in examples() or (path.name == "README.md" and path.parent in examples()):
        folder = path if path.is_dir() else path.parent
        return pages / "examples" / f"{folder.name}.md"
    if path.is_dir():
        raise SystemExit(f"the site has nothing for the folder {inside}")
    copy = pages / "files" / inside
    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".md":
        shutil.copyfile(path, copy)
    elif not copy.exists():
        copy.touch()  # pages may link to each other
        copy.write_text(f"---\norphan: true\n---\n\n{relink(path.read_text(), path, pages, copy)}")
    return copy


def relink(text: str, source: Path, pages: Path, page: Path) -> str:
    """Return the text of a page with its links to files as they are on the site."""

    def replace(found: re.Match[str]) -> str:
        path = found["path"]
        if re.match(r"[a-z]+:", path):
            return found[0]
        wanted = Path(os.path.normpath(source.parent / path))
        if not wanted.exists():
            return found[0]  # Sphinx reports it
        target = target_of(wanted, pages)
        return os.path.relpath(target, page.parent) + (found["anchor"] or "")

    # A link inside a code block is code.
    fences = list(FENCED.finditer(text))
    ends = [0, *(fence.end() for fence in fences)]
    starts = [*(fence.start() for fence in fences), len(text)]
    parts = [LINK.sub(replace, text[end:start]) for end, start in zip(ends, starts, strict=True)]
    codes = [fence[0] for fence in fences] + [""]
    return "".join(part + code for part, code in zip(parts, codes, strict=True))


def write_example(folder: Path, pages: Path) -> None:
    """Write the page of an example: its README and its files."""
    page = pages / "examples" / f"{folder.name}.md"
    page.parent.mkdir(exist_ok=True)
    parts = [relink((folder / "README.md").read_text(), folder / "README.md", pages, page).rstrip()]
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if file.suffix in LANGUAGES and "out" not in inside.parts:
            parts.append(
                f"## {inside.as_posix()}\n\n````{LANGUAGES[file.suffix]}\n{file.read_text().rstrip()}\n````"
            )
    page.write_text("\n\n".join(parts) + "\n")


def write_index_of_examples(pages: Path) -> None:
    names = "\n".join(folder.name for folder in examples())
    text = f"# Examples\n\nEach is a folder of `examples/` in the repository.\n{toctree(names)}"
    (pages / "examples" / "index.md").write_text(text)


def write_api(module: str, title: str, pages: Path) -> None:
    """Write the page of a module's public names, from their docstrings."""
    page = pages / "reference" / "api" / f"{module}.rst"
    page.parent.mkdir(parents=True, exist_ok=True)
    lines = [title, "=" * len(title), "", f".. automodule:: {module}", "   :no-members:", ""]
    options = ["   :inherited-members:"] if module == "dora.builder" else []  # of nodes and operators
    for part, names in public_names(module).items():
        lines += [part, "-" * len(part), ""]
        for name, directive in names.items():
            lines += [f".. auto{directive}:: {module}.{name}", *options, ""]
    page.write_text("\n".join(lines))


def public_names(module: str) -> dict[str, dict[str, str]]:
    """Return the public names of a module with their Sphinx directives, by part of the page."""
    parts: dict[str, dict[str, str]] = {"Classes": {}, "Functions": {}, "Events": {}, "Errors": {}}
    home = importlib.import_module(module)
    for name in home.__all__:
        value = getattr(home, name)
        if not isinstance(value, type):
            if callable(value):
                parts["Functions"][name] = "function"
        elif issubclass(value, BaseException):
            parts["Errors"][name] = "exception"
        elif value.__module__.endswith(".events"):
            parts["Events"][name] = "class"
        else:
            parts["Classes"][name] = "class"
    return {part: names for part, names in parts.items() if names}


def navigation(pages: Path) -> str:
    parts = []
    for title, patterns in NAVIGATION.items():
        entries = []
        for pattern in patterns:
            found = sorted({*pages.glob(f"{pattern}.md"), *pages.glob(f"{pattern}.rst")})
            entries += [file.relative_to(pages).with_suffix("").as_posix() for file in found]
        lines = "\n".join(dict.fromkeys(entries))
        parts.append(toctree(lines, f":caption: {title}\n:hidden:\n"))
    return "".join(parts)


def toctree(lines: str, options: str = "") -> str:
    return f"\n```{{toctree}}\n{options}:maxdepth: 1\n\n{lines}\n```\n"


if __name__ == "__main__":
    main()
