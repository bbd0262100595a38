"""Build the docs site: `make docs`, or `python docs/site/build.py`. The pages are docs/*.md; the site is build/site.

Nothing is loaded from the network, neither while building nor when the site is read: it can be opened from the disk.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

import api
import check
import drawings
import pages

BUILD = pages.ROOT / "build"
API_TITLE = "API from the docstrings"
WORKER = "assets/iframe-worker.js"
"""A script with which search works from the disk; the generator would load one of this name from a host."""


def config(navigation: list[Any]) -> dict[str, Any]:
    """The settings of the site generator; it reads the keys of mkdocs.yml."""
    options = {
        "docstring_style": "google", "show_source": False, "show_root_heading": True, "show_root_full_path": True,
        "members_order": "source", "show_signature_annotations": True, "separate_signature": True,
        "show_if_no_docstring": False, "docstring_section_style": "list",
        "docstring_options": {"warnings": False}, "extensions": [str(Path(__file__).parent / "doctests.py")],
    }  # fmt: skip
    return {
        "site_name": "boxwright",
        "site_description": "Object detectors to read, train on your own images, trust and ship",
        "docs_dir": "docs",
        "site_dir": "site",
        "use_directory_urls": False,  # pages that open from the disk
        "theme": {
            "variant": "modern",
            "font": False,  # the reader's own: no request
            "language": "en",
            "features": ["navigation.sections", "navigation.top", "content.code.copy", "search.highlight"],
            "palette": [
                {"media": "(prefers-color-scheme: light)", "scheme": "default",
                 "toggle": {"icon": "lucide/sun", "name": "Dark"}},
                {"media": "(prefers-color-scheme: dark)", "scheme": "slate",
                 "toggle": {"icon": "lucide/moon", "name": "Light"}},
            ],
        },
        "plugins": [
            "search",
            "offline",
            {"mkdocstrings": {"handlers": {"python": {"paths": [str(api.PACKAGE.parent)], "options": options}}}},
        ],
        "extra": {"polyfills": [WORKER]},
        "markdown_extensions": [
            "admonition", "attr_list", "md_in_html", "tables",
            {"toc": {"permalink": True, "slugify": "@slug"}},
            {"pymdownx.highlight": {"anchor_linenums": False}}, "pymdownx.superfences", "pymdownx.inlinehilite",
        ],
        "nav": navigation,
    }  # fmt: skip


def navigation() -> list[Any]:
    """The parts of docs/index.md, with the API pages at the end of the one called Reference."""
    parts: list[Any] = [{"boxwright": "index.md"}]
    for title, rows in pages.sections((pages.DOCS / "index.md").read_text(encoding="utf-8")):
        entries: list[Any] = [
            {name: pages.place_of(path[3:]) if path.startswith("../") else path} for name, path in rows
        ]
        if title == "Reference":
            entries.append({API_TITLE: [{Path(path).stem: path} for path in api.api_pages()]})
        parts.append({title: entries})
    return parts


def stage(folder: Path, drawn: Path | None) -> None:
    """Write everything that the generator reads into `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(pages.DOCS.glob("*.md"))}
    written = {name: drawings.shown(pages.staged(text), drawn) for name, text in texts.items()}
    written |= {place: pages.as_page(path) for place, path in pages.outside(texts).items()}
    written |= api.api_pages()
    for name, text in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copytree(pages.DOCS / "images", folder / "images")
    if drawn is not None:
        shutil.copytree(drawn, folder / "drawn")


def worker_from_text() -> str:
    """A script that lets search run in pages opened from the disk, where a browser refuses a worker's file.

    It hands the browser the text of the generator's own worker.
    """
    found = importlib.util.find_spec("zensical")
    assert found is not None
    assert found.origin is not None
    (worker,) = Path(found.origin).parent.glob("templates/assets/javascripts/workers/search*.js")
    text = json.dumps(worker.read_text(encoding="utf-8")).replace("</", "<\\/")
    return (
        'if (location.protocol === "file:") {\n'
        f"  const text = {text};\n"
        "  const Plain = window.Worker;\n"
        "  window.Worker = class extends Plain {\n"
        '    constructor() { super(URL.createObjectURL(new Blob([text], {type: "text/javascript"}))); }\n'
        "  };\n}\n"
    )


def write_config(file: Path) -> None:
    """The config file; headings get the anchors that GitHub gives them."""
    text = yaml.safe_dump(config(navigation()), sort_keys=False, width=1000)
    slug = "!!python/object/apply:pymdownx.slugs.slugify {kwds: {case: lower}}"
    file.write_text(text.replace("'@slug'", slug), encoding="utf-8")


def main() -> None:
    """Draw, stage, build and check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--no-drawings", action="store_true", help="without what the commands draw: seconds, not minutes"
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="of training for the drawings")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder for everything that is made")
    arguments = parser.parse_args()
    folder = arguments.build.resolve()
    if importlib.util.find_spec("zensical") is None:
        raise SystemExit("docs: the site generator is not installed; run `make docs`, or pip install 'boxwright[docs]'")
    drawn = None if arguments.no_drawings else drawings.draw(folder / "drawings", arguments.minutes)
    stage(folder / "docs", drawn)
    (folder / "docs" / WORKER).parent.mkdir()
    (folder / "docs" / WORKER).write_text(worker_from_text(), encoding="utf-8")
    write_config(folder / "mkdocs.yml")
    shutil.rmtree(folder / "site", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "-f", str(folder / "mkdocs.yml")], check=True)
    found = check.problems(folder / "site")
    if found:
        raise SystemExit("docs: the site is not whole:\n" + "\n".join(found[:50]))
    print(f"docs: {folder / 'site' / 'index.html'}")


if __name__ == "__main__":
    main()
