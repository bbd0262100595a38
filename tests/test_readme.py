"""What the pages say is so: every command parses, every link leads somewhere, every snippet compiles."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from page_house import run_python, run_sh, write_house

from boxwright.cli.main import VERBS, _fill_in_resume, app
from boxwright.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ENDS = {"|", "||", "&&", ";", ">", ">>", "&", "2>"}  # of a command within a shell line


class Fence(NamedTuple):
    """A block of a page: the words after its opening marks, its text, and its first line's number."""

    info: str
    text: str
    line: int


def fences(page: Path) -> list[Fence]:
    """The fenced blocks of a page; those inside a list are moved to the left."""
    found, opened = [], None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        marks = re.match(r"^(\s*)```(.*)$", line)
        if marks and opened is None:
            opened = (len(marks[1]), marks[2].strip(), number + 1, [])
        elif marks and opened is not None:
            found.append(Fence(opened[1], "\n".join(opened[3]) + "\n", opened[2]))
            opened = None
        elif opened is not None:
            opened[3].append(line[opened[0] :] if line[: opened[0]].isspace() else line)
    assert opened is None, f"{page.name}: the block from line {opened[2] if opened else 0} on is not closed"
    return found


def prose(page: Path) -> str:
    """The text of a page outside its blocks."""
    return re.sub(r"(?ms)^\s*```.*?^\s*```[ \t]*$", "", page.read_text(encoding="utf-8"))


def commands_in(text: str) -> Iterator[str]:
    """What follows the word boxwright where it is called: first in its line or after a prompt, `-m` or `NAME=value`."""
    for line in map(str.strip, text.replace("\\\n", " ").splitlines()):
        for call in re.finditer(r"(?:^|[$(;&|]\s*|-m |\b[A-Z_]+=\S+ )boxwright\s+(\S.*)$", line):
            yield call[1]


def sh_commands(page: Path) -> list[list[str]]:
    """The arguments of each call in a page's `sh` blocks."""
    found = []
    for fence in fences(page):
        if fence.info.split(" ")[0] == "sh":
            for call in commands_in(fence.text):
                words = shlex.split(call, comments=True)
                end = next((place for place, word in enumerate(words) if word in ENDS), len(words))
                found.append(words[:end])
    return found


def synopses(page: Path) -> list[str]:
    """Calls in other blocks and in running text, where brackets, dots and words in capitals stand for something."""
    found = []
    for fence in fences(page):
        if fence.info in ("", "text", "console"):
            joined = re.sub(r"\n\s+(?=\[|-)", " ", fence.text)
            found += [call for line in joined.splitlines() for call in commands_in(line.removeprefix("$ "))]
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page)):
        found += commands_in(span.replace("\n", " "))
    return found


@cache
def verb_commands() -> dict[str, Any]:
    command: Any = typer.main.get_command(app)
    return dict(command.commands)


def options_of(verb: str) -> set[str]:
    parameters = verb_commands()[verb].params
    return {"--help"} | {name for p in parameters for name in (*p.opts, *p.secondary_opts) if name.startswith("-")}


def shown_options_of(verb: str) -> set[str]:
    """The options in the help of a verb: old names still work, but are hidden."""
    parameters = [one for one in verb_commands()[verb].params if not getattr(one, "hidden", False)]
    return {name for one in parameters for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}


def of_pages(find: Any) -> list[Any]:
    """Every finding of every page as a test case that says where it stands."""
    return [
        pytest.param(page, found, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, found in enumerate(find(page), start=1)
    ]


@pytest.mark.parametrize(("page", "words"), of_pages(sh_commands))
def test_a_command_parses_to_its_last_word(page: Path, words: list[str]) -> None:
    from boxwright.recipes import load_recipe

    verb, *arguments = words
    assert verb in verb_commands(), f"{page.name}: no verb {verb}"
    _fill_in_resume(arguments)
    context = verb_commands()[verb].make_context(verb, arguments)
    recipe = context.params.get("recipe" if verb != "recipes" else "name")
    overrides = context.params.get("overrides") or []
    if recipe is not None and not recipe.endswith((".yaml", ".yml")):
        assert load_recipe(recipe, overrides), f"{page.name}: {recipe} {overrides}"


@pytest.mark.parametrize(("page", "call"), of_pages(synopses))
def test_a_synopsis_names_real_verbs_and_options(page: Path, call: str) -> None:
    verb = call.split()[0].strip("[]`.,;:")
    if verb.startswith("--"):
        assert verb in ("--help", "--version"), f"{page.name}: boxwright {call}"
        return
    if verb.isupper() or verb == "...":
        return
    assert verb in VERBS, f"{page.name}: boxwright {call}"
    unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", call)) - options_of(verb)
    assert not unknown, f"{page.name}: `boxwright {verb}` has no {', '.join(sorted(unknown))}"


@pytest.mark.parametrize("verb", sorted(verb_commands()))
def test_a_verb_has_a_page(verb: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "docs")
    assert f"boxwright {verb}" in text
    page = ROOT / "docs" / f"{verb}.md"
    assert page.is_file(), f"docs/{verb}.md is missing"
    missing = {name for name in shown_options_of(verb) if name not in page.read_text(encoding="utf-8")}
    missing -= {name for name in missing if name.startswith("--no-") and name.replace("--no-", "--") not in missing}
    assert not missing, f"docs/{verb}.md does not say what {', '.join(sorted(missing))} does"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made where Markdown is shown."""
    headings = re.findall(r"(?m)^#+ +(.+?)\s*$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_internal_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"^[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        if not goal.exists() or (anchor and goal.suffix == ".md" and anchor not in anchors(goal)):
            broken.append(target)
    assert not broken, f"{page.name}: {broken} lead nowhere"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["index.md"]


def test_the_file_tree_of_the_readme_is_the_real_one() -> None:
    (tree,) = [fence.text for fence in fences(ROOT / "README.md") if fence.info == "tree"]
    parents: list[tuple[int, Path]] = []
    listed = set()
    for line in tree.splitlines():
        entry = re.match(r"^(\s*)(\S+)\s{2,}(\S.*)$", line) or re.match(r"^(\s*)(\S+)()$", line)
        assert entry is not None, line
        depth, name, clause = len(entry[1]), entry[2], entry[3]
        parents = [(d, p) for d, p in parents if d < depth]
        path = (parents[-1][1] if parents else ROOT) / name
        assert path.exists(), f"the file tree names {path.relative_to(ROOT)}, which is not there"
        assert clause or name == "src/boxwright/", f"{name} stands without a clause"
        assert name.endswith("/") == path.is_dir()
        parents.append((depth, path))
        listed.add(path)
    package = ROOT / "src" / "boxwright"
    folders = {path.parent for path in package.glob("*/__init__.py")}
    assert not folders - listed, f"the file tree leaves out {sorted(str(path) for path in folders - listed)}"


@pytest.mark.parametrize("name", MODELS)
def test_the_readme_names_every_detector(name: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert name.replace("_", "") in re.sub(r"[-_ ]", "", text)


def test_the_readme_image_is_small() -> None:
    (name,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert (ROOT / name).stat().st_size < 300_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_snippets_compile(page: Path) -> None:
    for fence in fences(page):
        if fence.info.split(" ")[0] == "python":
            compile("\n" * (fence.line - 1) + fence.text, str(page), "exec")


RUN = re.compile(r"(python|sh) run( slow)?")
RUN_ELSEWHERE = {
    "adding_a_detector": "test_docs.py trains the detector of the page",
    "index": "test_docs_site.py makes the site's navigation of it",
    "notebooks": "test_notebooks.py runs what the page lists",
    "report": "test_run_page.py trains runs and reports them by the verb",
    "tour": "test_docs.py runs and counts its snippets",
}
"""Pages of docs/ whose examples are run by other tests."""


def runnable(page: Path) -> list[Fence]:
    return [fence for fence in fences(page) if RUN.fullmatch(fence.info)]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_house(tmp_path_factory.mktemp("house"))


def pages_with_examples() -> list[Any]:
    """Pages with blocks to run; slow where one of them is."""
    found = []
    for page in PAGES:
        infos = [fence.info for fence in runnable(page)]
        marks = [pytest.mark.slow] if any(info.endswith("slow") for info in infos) else []
        found += [pytest.param(page, marks=marks, id=page.stem)] if infos else []
    return found


@pytest.mark.parametrize("page", pages_with_examples())
def test_snippets_marked_to_run_do_run(
    page: Path, house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(house, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for fence in runnable(page):
        if fence.info.startswith("sh"):
            run_sh(fence.text, f"{page.name}, line {fence.line}", monkeypatch)
        else:
            run_python(fence.text, str(page), fence.line, names)


def test_no_page_is_without_an_example_that_a_test_runs() -> None:
    pages = [page for page in PAGES if page.parent.name == "docs"]
    without = [page.name for page in pages if not runnable(page) and page.stem not in RUN_ELSEWHERE]
    assert not without, f"give {', '.join(without)} a block `python run` or `sh run`"
    assert set(RUN_ELSEWHERE) <= {page.stem for page in pages}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml_blocks_are_recipes(page: Path) -> None:
    import yaml

    from boxwright.recipes.schema import Recipe

    for fence in fences(page):
        if fence.info == "yaml":
            data = yaml.safe_load(fence.text)
            known = {*Recipe.model_fields, "base"}
            assert set(data) <= known, f"{page.name}, line {fence.line}: {sorted(set(data) - known)} are no recipe keys"
