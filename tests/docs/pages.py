"""The pages of the project and the code blocks on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])


@dataclass(frozen=True)
class Block:
    """A fenced code block: its language, its title (the name of a file with this content), if any, and its text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order, with included files in their place."""
    found = re.findall(
        r'^```(\w+|{\.\w+})(?: title="([^"]+)")?\n(.*?)^```$', page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [Block(*parts) for parts in found]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command line in the page's shell blocks, without comments."""
    for block in blocks(page):
        if block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield words


def inline_settings(page: Path) -> set[str]:
    """The dotted keys of all settings such as ``budget.flops=0.5`` in the page's inline code."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    code = re.findall(r"`([^`\n]+)`", prose)
    return {key for span in code for key in re.findall(r"(?<![\w.+/])([a-z]\w*(?:\.\w+)+)=", span)}
