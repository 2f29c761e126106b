"""The words that went stay away: code, tests, messages and pages use the words of `docs/glossary.md`.

Sentences of docstrings and comments in the package begin with their subject or their verb: not with a free
"Who" or "What", nor with a verb of speech for what a function returns.

`GONE` names the words of the former private language, each with the word that took its place, and a few
that plain English does without. They are looked for as whole words, in names (`kept_queue`, `KeptQueue`)
as well as in comments, messages and pages. `GONE_NAMES` are ordinary in a sentence and vague in a name, so
only Python names are searched for them.

``python tests/docs/test_words.py`` counts what is left, ``… WING`` lists it.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "dora"
T = TypeVar("T")

GONE = {
    # links and engines
    "lane|lanes": "send window",
    "landing|landings": "receive window",
    "take off|takes off|took off|taking off": "send",
    "fly|flies|flying|flown": "in flight",
    "launcher|launchers": "send thread",
    "gate|gates": "peer",
    "mailbox|mailboxes": "sessions",
    "quick way|quick ways": "fast path",
    "porter|porters": "background poller",
    "nudge|nudges|nudged": "interrupt",
    "puzzle|puzzles": "reassembler",
    "spanning": "composite",
    "annex|annexes": "overflow channel",
    "kept queue|kept queues": "priority queue",
    "long queue|long queues": "spillover queue",
    "tape|tapes|taped": "ring buffer",
    # nodes
    "heads up|heads ups": "prewake",
    "rhythm|rhythms": "arrival predictor",
    "attend|attends|attended": "wait",
    "doze|dozes|dozed": "sleep",
    "glance|glances|glanced": "poll; snapshot",
    "knock|knocks|knocked": "contend",
    "give way|gives way|gave way|giving way": "yield",
    "rewiring|rewirings": "topology",
    "last words": "excepthook; last lines",
    "order log|order logs": "event log",
    "ordered inbox": "replay inbox",
    # the daemon
    "successor|successors": "replacement",
    "make way|makes way|made way|making way": "drain",
    "doom|dooms|doomed": "kill reason",
    "obituary|obituaries": "failure note",
    "farewell|farewells": "last grace",
    "verdict|verdicts": "exit",
    "news": "status",
    "guest|guests": "client; request",
    "keeper|keepers": "accounting",
    # the cluster
    "bystander|bystanders": "partition without nodes",
    "hosted": "worker",
    "wish|wishes|wished": "operation",
    "amend|amends|amended|amending|amendment|amendments": "change",
    "becoming": "apply",
    "birth|births": "generation",
    "surveyor|surveyors": "metrics",
    "gathered": "log store; collected",
    # observers and recordings
    "afar": "remote",
    "looker|lookers": "observer",
    "wholes": "running dataflows",
    "transit|transits": "latency",
    "surroundings": "context",
    # tests and tools
    "outlet|outlets": "non-blocking stream",
    "seat|seats": "virtual host",
    "baton|batons": "turn",
    "provenance": "program sources",
    # plain English
    "amid": "during, in the middle of",
    "in vain": "without result",
    "whoever": "a node that…, the process that…",
    "see to|sees to|saw to|seen to": "the verb for what is done",
}

GONE_NAMES = {
    "far": "remote",
    "house": "receiver session",
    "ways": "publishers",
    "quick": "fast",
    "whole": "running dataflow",
    "told|said": "a name for what was reported",
    "noted": "ok",
    "remains": "cleanup",
    "endings": "closing",
    "survey|surveys": "metrics",
    "spot|spots": "preview topic",
    "settle": "freeze_gc",
    "stage|stages": "virtual daemon",
    "attachment|attachments": "host",
}

# Classes, and so messages between processes, that have other names now.
GONE_CLASSES = {
    "Beat": "Heartbeat",
    "Declined": "Rejected",
    "Explain": "DescribeRun",
    "Forget": "DropRecords",
    "HandOver": "ApplyChange",
    "Look": "ObserverSession",
    "Measure": "Collect",
    "Meet": "Endpoints",
    "Noted": "Ok",
    "Outdated": "Conflict",
    "Part": "Partition",
    "PutOut": "Disconnect",
    "Recorded": "AckEnd",
    "Share": "Partition",
    "TakeSurvey": "Collect",
    "Told": "PeerStatus",
}

# Classes that share their name on purpose.
SHARED = {
    "Node": "that of a program, and that of a dataflow written in Python: both are public",
    "History": "how many messages ROS keeps, in its own words, and a recording that is looked back into",
    "Operator": "the base of a user's, and that of a dataflow written in Python: both are public",
}

# In pages, the plain verb or the name of the one who acts says more.
GONE_IN_PAGES = {
    "tell|tells|told|telling": "report, show, name",
    "anew": "again",
    "for ever": "without limit",
    "let go|lets go": "drop, release",
    "mend|mends|mended|mending": "correct, repair",
    "noted": "recorded",
    "somebody|anybody": "the user, the process",
    "as ever": "leave it out",
}

# Uses that stay, as regular expressions over the name of the file and the text around the word, and why.
EXCEPTIONS = {
    # An operator in its process.
    "hosted": [r"hosted by a runtime|^src/dora/node/(operator|runtime)|^tests/node/"],
    "transit": [r"in transit"],  # a message on the network
    "guest|guests": [
        r"^examples/actions/|^tests/examples/",  # it plays in a restaurant
        r"^tests/end_to_end/",  # a node that joins and leaves
    ],
    "gate": [r"^docs/reference/public-files"],  # the name of a file of others
    "keeper": [r"^tests/(end_to_end|stress)/"],  # a node that keeps all its messages
    "attachment|attachments": [
        r"(?i)mcap|disposition|(create|add)_attachment",  # names of formats
        r"^(src/dora|tests)/ros2/",  # Zenoh's word for bytes beside a message
        r"sample.attachment|payload\W+Any\W+attachment|attachment\W+(attachment|DATA_HEADER|mark)",  # Zenoh
    ],
}

GENERATED = "docs/reference/commands.md"  # its sentences are those of the commands

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
BETWEEN = re.compile(r"[\s_#*-]*")  # between two words of one phrase or name
AROUND = 60  # characters of the file on both sides in which an exception is looked for


def forms(table: Mapping[str, T]) -> dict[str, T]:
    """Return each form of each word, with the word that took its place."""
    return {form: new for old, new in table.items() for form in old.split("|")}


def pattern(table: dict[str, str]) -> re.Pattern[str]:
    longest_first = sorted(forms(table), key=len, reverse=True)
    return re.compile(rf"(?<![a-z])(?:{'|'.join(longest_first)})(?![a-z])")


def spread(text: str) -> tuple[str, list[int]]:
    """Return the words of a text, names taken apart, in lower case; and where each letter was."""
    letters: list[str] = []
    places: list[int] = []
    end = 0
    for found in WORD.finditer(text):
        gap = " " if BETWEEN.fullmatch(text, end, found.start()) else ", "  # no phrase across a comma
        letters += gap, found[0].lower()
        places += [found.start()] * len(gap)
        places += range(found.start(), found.end())
        end = found.end()
    return "".join(letters), places


def names_only(text: str) -> str:
    """Return a Python file with everything blanked out but its names."""
    lines = [[" "] * len(line) for line in text.split("\n")]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            (row, start), (_, end) = token.start, token.end
            lines[row - 1][start:end] = token.string
    return "\n".join("".join(line) for line in lines)


def is_exception(word: str, text: str, place: int, name: str) -> bool:
    around = f"{name} {' '.join(text[max(0, place - AROUND) : place + AROUND].split())}"
    return any(re.search(use, around) for use in forms(EXCEPTIONS).get(word, ()))


def hits(text: str, table: dict[str, str], name: str = "") -> Iterator[tuple[int, str, str]]:
    """Return line, old word and new word of everything in a text that is in the table."""
    words, places = spread(text)
    new = forms(table)
    for found in pattern(table).finditer(words):
        place = places[found.start()]
        if not is_exception(found[0], text, place, name):
            yield text.count("\n", 0, place) + 1, found[0], new[found[0]]


def hits_in(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    found = list(hits(text, GONE, name))
    if path.suffix == ".py" and name.startswith("src/"):
        found += hits(names_only(text), GONE_NAMES, name)
    if path.suffix == ".md" and name != GENERATED:
        prose = FENCED.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
        found += hits(prose, GONE_IN_PAGES, name)
    found += [(0, word, f"{new} (file name)") for _, word, new in hits(name, GONE, name)]
    return [f"{name}:{line}: {word} (instead: {new})" for line, word, new in sorted(found)]


@cache
def files() -> dict[str, list[Path]]:
    """Return the files that are searched, by wing of the package, or folder of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found: dict[str, list[Path]] = {}
    for name in listed:
        path = ROOT / name
        parts = path.relative_to(ROOT).parts
        if path.suffix not in {".py", ".md", ".in", ".yml", ".ts", ".tsx"} or path == Path(__file__):
            continue
        if not path.exists():  # deleted, and not yet in a commit
            continue
        if parts[:2] == ("src", "dora"):
            found.setdefault(parts[2] if len(parts) > 3 else "", []).append(path)
        elif parts[0] in {"docs", "examples", "benchmarks", "README.md", "CONTRIBUTING.md", "SECURITY.md"}:
            found.setdefault("docs", []).append(path)
        elif parts[0] in {"frontend", "tools"}:
            found.setdefault("tools", []).append(path)
        elif parts[0] == "tests":
            found.setdefault("/".join(parts[:-1][:2]), []).append(path)
    return found


def in_git() -> bool:
    return (ROOT / ".git").exists()


@pytest.mark.lengthy
@pytest.mark.skipif(not in_git(), reason="this is not a clone")
@pytest.mark.parametrize("wing", sorted(files()) if in_git() else [])
def test_the_words_that_went_stay_away(wing: str) -> None:
    assert [hit for path in files()[wing] for hit in hits_in(path)] == []


# A sentence that only looks like the beginning of a question.
OPENING = re.compile(r"(Who|Whoever|Whose|What|Tell|Let)\b(?![^.]*\?)")
SENTENCE = re.compile(r"(?:\A|(?<=[.!?:])\s+|\n\s*\n\s*)(?=[A-Z])")


def prose_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings and the blocks of comments in a Python file, with their lines."""
    for item in ast.walk(ast.parse(text)):
        match item:
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                yield item.lineno, docstring
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != last + 1:
                yield last - len(block) + 1, "\n".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    if block:
        yield last - len(block) + 1, "\n".join(block)


def bad_openings(text: str) -> list[tuple[int, str]]:
    """Return line and first word of each sentence that opens with a free "Who" or "What"."""
    return [
        (line + prose.count("\n", 0, start.end()), found[0])
        for line, prose in prose_of(text)
        for start in SENTENCE.finditer(prose)
        if (found := OPENING.match(prose, start.end()))
    ]


@pytest.mark.lengthy
def test_no_sentence_opens_with_a_free_who_or_what() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, word in bad_openings(path.read_text(encoding="utf-8"))
    ] == []


def test_free_openings_are_found_in_docstrings_and_comments() -> None:
    docstring = '"""Do it. What is left stays.\n\nWho sends? What it is."""\n'
    comments = 'x = "What"\n# First.\n# Who waits\n# is woken.\n'
    assert bad_openings(docstring + comments) == [(1, "What"), (3, "What"), (6, "Who")]


def classes() -> dict[str, list[str]]:
    """Return the modules that define a class of each name."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in CLASS.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, []).append(path.relative_to(PACKAGE).as_posix())
    return found


def test_no_class_has_a_name_that_went() -> None:
    assert {name: classes()[name] for name in GONE_CLASSES.keys() & classes().keys()} == {}


def test_a_class_name_stands_for_one_thing() -> None:
    several = {name: modules for name, modules in classes().items() if len(modules) > 1}
    assert {name: modules for name, modules in several.items() if name not in SHARED} == {}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("class KeptQueue:", "kept queue"),
        ("kept_queue = 1", "kept queue"),
        ("a kept\n    # queue of", "kept queue"),
        ("HEADS_UP", "heads up"),
        ("several heads-ups", "heads ups"),
        ("It waited in vain.", "in vain"),
        ("Whoever sends", "whoever"),
    ],
)
def test_a_word_is_found_in_names_and_in_sentences(text: str, word: str) -> None:
    assert [found for _, found, _ in hits(text, GONE)] == [word]


@pytest.mark.parametrize(
    "text", ["navigate", "planes", "an operator hosted by a runtime", "invalid", "aggregates"]
)
def test_longer_words_that_contain_a_former_word_are_allowed(text: str) -> None:
    assert list(hits(text, GONE)) == []


def test_a_vague_name_is_found_in_names_only() -> None:
    text = names_only(
        'def is_far(self) -> bool:\n    """Say how far."""\n    return "far" in self.far  # far\n'
    )
    assert [line for line, _, _ in hits(text, GONE_NAMES)] == [1, 3]


def main() -> None:
    for wing, paths in sorted(files().items()):
        found = [hit for path in paths for hit in hits_in(path)]
        if wing in sys.argv[1:]:
            print(*found, sep="\n")
        print(f"{wing or '(top)'}: {len(found)}")


if __name__ == "__main__":
    main()
