"""The pages of docs/ as the site takes them: its navigation from index.md, links and blocks in the form it understands.

Every page also reads well where it is written, on GitHub; nothing in docs/ is there for the site alone but comments
such as `<!-- drawn: explain-fcos -->`, which the site replaces by what a command draws.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DRAWN = re.compile(r"(?m)^<!-- drawn: ([\w-]+) -->$")
FENCE = re.compile(r"(?ms)^([ ]*)```(\S*)([^\n]*)\n(.*?)^[ ]*```[ ]*$")


class Section(NamedTuple):
    """A part of the navigation: its title, and of each page the title and the path below docs/."""

    title: str
    pages: list[tuple[str, str]]


def sections(index: str) -> list[Section]:
    """The parts of index.md: a line in bold or a heading, then a table with a link to a page in each row."""
    found: list[Section] = []
    for line in index.splitlines():
        if title := re.fullmatch(r"(?:## (.+)|\*\*(.+)\*\*)", line):
            found.append(Section(title[1] or title[2], []))
        elif row := re.match(r"\| \[([^\]]+)\]\(([^)#]+)\)", line):
            if not found:
                raise ValueError(f"docs/index.md: the row of {row[2]} stands above the first heading")
            found[-1].pages.append(
                (row[1].removesuffix(".md").removeprefix("../").replace("_", " ").replace("-", " "), row[2])
            )
    return found


def outside(pages: dict[str, str]) -> dict[str, Path]:
    """Files beside docs/ that its pages link to, by their place in the site: Markdown as a page, code as one too."""
    targets = [target for text in pages.values() for target in re.findall(r"\]\(\.\./([^)#\s]+)", prose(text))]
    found: dict[str, Path] = {}
    for target in targets:  # grows by what the files at the root link to
        path = ROOT / target
        if path.is_file() and place_of(target) not in found:
            found[place_of(target)] = path
            if path.suffix == ".md" and path.parent == ROOT:
                text = prose(path.read_text(encoding="utf-8"))
                targets += [target for target in re.findall(r"\]\(([\w-]+\.md)[)#]", text)]
    return found


def prose(text: str) -> str:
    """A page without its blocks."""
    return FENCE.sub("", text)


def place_of(target: str) -> str:
    """Where a file beside docs/ stands in the site: `../notebooks/a.py` in `files/notebooks/a.py.md`."""
    return f"files/{target}" if target.endswith(".md") else f"files/{target}.md"


def staged(text: str, depth: int = 0) -> str:
    """A page in the form that the site generator takes; `depth`: folders between it and docs/.

    Of the words after the marks of a block only the language stays (`python run` tells the tests what to do), and links
    to files beside docs/ lead to their copies.
    """
    up = "../" * depth

    def link(found: re.Match[str]) -> str:
        file, mark, anchor = found[1].partition("#")
        if (ROOT / file).is_dir():
            return "](" + up + "index.md)"
        return f"]({up}{place_of(file)}{mark}{anchor})"

    parts, end = [], 0
    for block in FENCE.finditer(text):
        parts.append(re.sub(r"\]\(\.\./([^)\s]+)\)", link, text[end : block.start()]))
        parts.append(f"{block[1]}```{language(block[2])}\n{block[4]}{block[1]}```")
        end = block.end()
    parts.append(re.sub(r"\]\(\.\./([^)\s]+)\)", link, text[end:]))
    return "".join(parts)


def language(word: str) -> str:
    """The name that a highlighter knows: a tree and a bare block are plain text."""
    return {"": "text", "tree": "text"}.get(word, word)


def as_page(path: Path) -> str:
    """A file beside docs/ as a page of the site: Markdown with its links adapted, code in a block."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    if path.suffix == ".md":
        return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", lambda found: f"]({from_root(found[1])})", text)
    return f"# `{name}`\n\n```{path.suffix[1:].replace('py', 'python')}\n{text}```\n"


def from_root(target: str) -> str:
    """The link of a page at the root of the repository as one of `files/`."""
    file, mark, anchor = target.partition("#")
    if file.startswith("docs/") and file.endswith(".md"):
        return f"../{file.removeprefix('docs/')}{mark}{anchor}"
    return f"{Path(place_of(file)).name}{mark}{anchor}" if (ROOT / file).suffix == ".md" else "../index.md"
