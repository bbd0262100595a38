"""The docs site: its navigation is the index, its copies of the pages keep their links, and it loads from nowhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxwright.evaluation.report import plain_figure

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site() -> Iterator[Any]:
    """The script that builds the site, imported with the files beside it, which are forgotten afterwards."""
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("docs_site", DOCS / "site" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    sys.path[:] = before
    yield build
    for path in (DOCS / "site").glob("*.py"):
        sys.modules.pop(path.stem, None)


def flat(navigation: list[dict[str, object]]) -> list[str]:
    found: list[str] = []
    for entry in navigation:
        for value in entry.values():
            found += flat(value) if isinstance(value, list) else [str(value)]
    return found


def test_every_page_has_one_place_in_the_navigation(site: Any) -> None:
    places = flat(site.navigation())
    assert len(places) == len(set(places))
    missing = {path.name for path in DOCS.glob("*.md")} - set(places)
    assert not missing, f"give {', '.join(sorted(missing))} a row in one of the tables of docs/index.md"
    assert [next(iter(part)) for part in site.navigation()[1:]] == [
        "Get started", "How-to", "Reference", "Understanding"
    ]  # fmt: skip


def test_a_row_of_the_index_above_the_first_heading_is_refused(site: Any) -> None:
    with pytest.raises(ValueError, match=r"the row of a\.md stands above the first heading"):
        site.pages.sections("| [a](a.md) | text |\n")


def test_a_row_added_to_the_index_is_in_the_navigation(site: Any) -> None:
    text = "## How-to\n\n| page | content |\n|---|---|\n| [video.md](video.md) | videos |\n| [Tiles](tiles.md) | x |\n"
    assert site.pages.sections(text) == [("How-to", [("video", "video.md"), ("Tiles", "tiles.md")])]


def test_the_copies_of_the_pages_have_no_link_out_of_the_site(site: Any, tmp_path: Path) -> None:
    site.stage(tmp_path / "docs", None)
    staged = {path.relative_to(tmp_path / "docs").as_posix(): path for path in (tmp_path / "docs").rglob("*.md")}
    assert {path.name for path in DOCS.glob("*.md")} < set(staged)
    assert "files/CONTRIBUTING.md" in staged
    for name, path in staged.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", site.pages.prose(path.read_text(encoding="utf-8"))):
            file = target.partition("#")[0]
            if file and not re.match(r"^[a-z]+:", file) and not name.startswith(("files/notebooks", "api/")):
                goal = (path.parent / file).resolve()
                assert goal.is_file(), f"{name}: {target}"
                assert goal.is_relative_to(tmp_path)


def test_blocks_keep_their_language_only(site: Any) -> None:
    page = "a [x](../README.md)\n\n```python run\n# [y](../z.md)\n```\n\n"
    page += "```\nplain\n```\n\n- item\n\n  ```sh run\n  b\n  ```\n"
    staged = site.pages.staged(page)
    assert "[x](files/README.md)" in staged
    assert "# [y](../z.md)" in staged
    assert re.findall(r"```(.*)", staged) == ["python", "", "text", "", "sh", ""]


def test_what_loads_from_elsewhere_or_leads_nowhere_is_found(site: Any, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<link rel="canonical" href="https://x.org"><a href="https://x.org">no load</a><h2 id="here"></h2>'
        '<a href="#here"></a><a href="b.html#there"></a><a href="c.html"></a><img src="//x.org/i.png">'
        '<script src="https://x.org/s.js"></script><style>p { background: url(https://x.org/p.png) }</style>'
    )
    (tmp_path / "b.html").write_text('<link rel="stylesheet" href="s.css">')
    (tmp_path / "s.css").write_text('@import "https://x.org/t.css"; p { background: url("data:image/png;base64,AA") }')
    assert sorted(site.check.problems(tmp_path)) == [
        "a.html loads //x.org/i.png", "a.html loads https://x.org/p.png", "a.html loads https://x.org/s.js",
        "a.html: b.html#there leads nowhere", "a.html: c.html leads nowhere", "s.css loads https://x.org/t.css",
    ]  # fmt: skip


def test_each_public_name_and_each_folder_has_its_docstrings_in_the_reference(site: Any) -> None:
    import boxwright

    pages = site.api.api_pages()
    names = re.findall(r"heading: boxwright\.(\w+)", pages["api/boxwright.md"])
    assert sorted(names) == sorted(set(boxwright.__all__) - {"__version__"})
    assert "::: boxwright.inference.predictor.Detector.load\n" in pages["api/boxwright.md"]
    assert "::: boxwright.ops.points\n" in pages["api/ops.md"]
    assert "api/cli.md" not in pages


def test_every_comment_for_drawings_names_a_group_and_every_group_is_shown(site: Any) -> None:
    named = [name for page in DOCS.glob("*.md") for name in site.pages.DRAWN.findall(page.read_text(encoding="utf-8"))]
    assert sorted(named) == sorted(site.drawings.GROUPS)
    with pytest.raises(ValueError, match="names no group"):
        site.drawings.shown("<!-- drawn: nothing -->\n", None)
    shown = site.drawings.shown("<!-- drawn: predict -->\n", Path("anywhere"))
    assert "$ boxwright predict" in shown
    assert "![val_000001.jpg](drawn/found-val_000001.jpg)" in shown
    shown = site.drawings.shown("<!-- drawn: run -->\n", Path("anywhere"))
    assert "\n[log.txt: what the run logged](drawn/runs-demo-run-log.txt)" in shown  # a link: it is no image


def test_without_the_generator_one_sentence_says_what_to_install(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["build.py", "--no-drawings"])
    with pytest.raises(SystemExit, match=r"docs: the site generator is not installed; .*boxwright\[docs\]"):
        site.main()


@pytest.mark.slow
def test_the_site_is_built_and_whole(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="pip install 'boxwright[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install 'boxwright[docs]'")
    done = subprocess.run(
        [sys.executable, str(DOCS / "site" / "build.py"), "--no-drawings", "--build", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "boxwright.train" in (tmp_path / "site" / "api" / "boxwright.html").read_text(encoding="utf-8")
    assert "centerness" in (tmp_path / "site" / "search.json").read_text(encoding="utf-8")


def test_a_notebook_becomes_a_page_of_its_text_code_output_and_figures(site: Any, tmp_path: Path) -> None:
    plain_figure(1, 1)  # imports matplotlib, whose font cache then lies outside of the home folder
    notebook = tmp_path / "small.py"
    notebook.write_text(
        '# %% [markdown]\n# # Title\n#\n# Some *words*.\n\n# %% tags=["parameters"]\nSIDE = 400\n\n# %%\n'
        "from PIL import Image\nprint('side', SIDE)\nImage.new('RGB', (SIDE, SIDE))\n"
    )
    rendered = sys.modules["rendered"]
    text = rendered.page_of(rendered.run_notebook(notebook, {"SIDE": 8}, tmp_path).cells)
    said = rendered.SAID
    assert text.startswith(f"# Title\n\nSome *words*.\n\n{said}\n\n```python\nSIDE = 400\n```\n\n```python\n")
    (figure,) = tmp_path.glob("*.png")
    assert text.endswith(f"```\n\n```text\nside 8\n```\n\n![what line 10 draws]({figure.name})\n")
