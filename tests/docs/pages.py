"""The Markdown pages of this project, cut into what a test can check."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "models" / "shapeworld" / "README.md",
    ]
)
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""The pages for users."""
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")
_ENDS = {"|", "||", "&&", ";"}
"""Words of a shell that end a command."""


@dataclass(frozen=True)
class Command:
    """One command of a page: the words of its program, and those before it."""

    page: str
    words: tuple[str, ...]
    variables: tuple[str, ...] = ()
    """Names that ``NAME=value`` sets before the program or for ``make``."""

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of ``page`` in ``language``, without their indentation."""
    text = page.read_text(encoding="utf-8")
    result = [match for match in _FENCE.finditer(text) if match[2] == language]
    return [re.sub(rf"^{match[1]}", "", match[3], flags=re.M) for match in result]


def prose(page: Path) -> str:
    """``page`` without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """The inline code of ``page``."""
    return _SPAN.findall(prose(page))


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of ``page``."""
    return {anchor(heading) for heading in _HEADING.findall(prose(page))}


def anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def commands(page: Path) -> Iterator[Command]:
    """The commands in sh blocks and, where a program of ours is named, inline code."""
    for block in blocks(page, "sh"):
        text = block.replace("\\\n", " ")
        for line in text.splitlines():
            yield from _split(name_of(page), line)
    for span in spans(page):
        if re.match(r"(\w+=\S+ )*(make|python|animatediff|pytest|torchrun) ", span):
            yield from _split(name_of(page), span)


def _split(page: str, line: str) -> Iterator[Command]:
    words = shlex.split(line, comments=True)
    while words:
        cut = next((i for i, word in enumerate(words) if word in _ENDS), len(words))
        yield from _command(page, words[:cut])
        words = words[cut + 1 :]


def _command(page: str, words: list[str]) -> Iterator[Command]:
    is_setting = [_ASSIGNMENT.fullmatch(word) is not None for word in words]
    first = is_setting.index(False) if False in is_setting else len(words)
    variables = [word.partition("=")[0] for word in words[:first]]
    if first < len(words):
        yield Command(page, tuple(words[first:]), tuple(variables))


def requests(page: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every request in ``page``: a JSON block, or the data of a curl command."""
    for block in blocks(page, "json"):
        content = json.loads(block)
        if "input" in content:
            yield name_of(page), content
    for command in commands(page):
        if command.words[0] == "curl" and "-d" in command.words:
            data = command.words[command.words.index("-d") + 1]
            yield name_of(page), json.loads(data)
