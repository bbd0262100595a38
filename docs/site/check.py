"""What must hold of the built site: it loads nothing from elsewhere, and every link within it leads somewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "use": "href"}
"""Elements that load a resource by themselves, and the attribute that names it; `link` is looked at by its `rel`."""
PASSIVE = {"canonical", "alternate", "prev", "next", "edit", "license"}
"""Values of `rel` for which a browser loads nothing."""


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.names |= {values[name] for name in ("id", "name") if name in values}
        self.style = tag == "style"
        if tag in LOADS and LOADS[tag] in values:
            self.loaded.append(values[LOADS[tag]])
        if tag == "link" and values.get("rel") not in PASSIVE:
            self.loaded.append(values.get("href", ""))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += in_css(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.style:
            self.loaded += in_css(data)

    def handle_endtag(self, tag: str) -> None:
        self.style = False


def in_css(text: str) -> list[str]:
    """What a style sheet loads: `url(...)` and `@import "..."`."""
    return re.findall(r"url\(\s*['\"]?([^'\")\s]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)


def is_elsewhere(target: str) -> bool:
    """Whether a browser would ask another host for it."""
    return target.startswith("//") or urlsplit(target).scheme in ("http", "https", "ftp", "ws", "wss")


def problems(site: Path) -> list[str]:
    """A sentence for each resource that lies elsewhere, and for each link or resource of the site that is broken."""
    pages = {}
    for file in sorted(site.rglob("*.html")):
        pages[file] = _Page()
        pages[file].feed(file.read_text(encoding="utf-8"))
    found = []
    for file, page in pages.items():
        name = file.relative_to(site).as_posix()
        found += [f"{name} loads {target}" for target in page.loaded if is_elsewhere(target)]
        if file.name == "404.html":  # its links are those of a server's root
            continue
        for target in dict.fromkeys(page.links + page.loaded):
            if target and not urlsplit(target).scheme and not target.startswith("//"):
                found += [f"{name}: {target} leads nowhere"] * (not _leads(file, target, pages))
    for sheet in sorted(site.rglob("*.css")):
        for target in in_css(sheet.read_text(encoding="utf-8")):
            if is_elsewhere(target):
                found.append(f"{sheet.relative_to(site)} loads {target}")
    return found


def _leads(file: Path, target: str, pages: dict[Path, _Page]) -> bool:
    path, _, anchor = target.partition("#")
    goal = (file.parent / unquote(path.partition("?")[0])).resolve() if path else file
    if goal.is_dir():
        goal /= "index.html"
    if not goal.is_file():
        return False
    return not anchor or goal not in pages or unquote(anchor) in pages[goal].names or anchor.startswith("__")
