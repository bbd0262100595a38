"""Exported files are looked at before they are loaded: what could run code, or lies elsewhere, is refused."""

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from boxwright.inference.predictor import Detector

EVIL = "__import__('os').system('touch PWNED')"


class Trap:
    def __reduce__(self):
        return eval, (EVIL,)


@pytest.fixture
def files(exported, tmp_path, monkeypatch):
    """Copies of the exported files; whatever is run leaves PWNED in the folder."""
    monkeypatch.chdir(tmp_path)
    for file in exported["xml"].parent.glob("tiny.*"):
        shutil.copy(file, tmp_path)
    yield {kind: tmp_path / f"tiny.{kind}" for kind in ("onnx", "xml", "pt2")}
    assert not (tmp_path / "PWNED").exists()


def test_files_as_they_were_written_are_loaded(files):
    rewritten(files["pt2"], lambda members: None)
    for file in files.values():
        assert Detector.load(file, "cpu").classes.names == ("cell", "dot", "ring")


def rewritten(path, change):
    """The same program with members changed: `change` takes a dict by the names after the first folder."""
    with zipfile.ZipFile(path) as old:
        folder = old.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name if name.startswith("/") else f"{folder}/{name}", content)


def refused(path, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        Detector.load(path, "cpu")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_weights_that_are_marked_as_pickles_are_not_unpickled(files, kind):
    def change(members):
        name = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(members[name])
        first = next(iter(config["config"].values()))
        first["use_pickle"] = True
        members[f"data/{kind}/{first['path_name']}"] = saved(Trap())
        members[name] = json.dumps(config)

    rewritten(files["pt2"], change)
    refused(files["pt2"], "refused before it is loaded: its weight .* is a pickle, which could run code")


@pytest.mark.parametrize("prefix", ["custom_obj_0", "opaque_obj_0", "../../x"])
def test_constants_that_are_no_tensors_are_refused(files, prefix):
    def change(members):
        name = "data/constants/model_constants_config.json"
        config = json.loads(members[name])
        next(iter(config["config"].values()))["path_name"] = prefix
        members[name] = json.dumps(config)

    rewritten(files["pt2"], change)
    refused(files["pt2"], "refused before it is loaded: its .* is no plain tensor")


@pytest.mark.parametrize("content", [saved(Trap()), pickle.dumps(Trap()), saved({"a": Trap()})])
@pytest.mark.parametrize("name", ["data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/model.pt"])
def test_members_of_torch_save_hold_tensors_only(files, name, content):
    rewritten(files["pt2"], lambda members: members.update({name: content}))
    refused(files["pt2"], "refused before it is loaded|is not a torch.export program, or is damaged")


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/x.so", "models/other.json", "code/x.py", "../x", "/etc/x", "extra/../../x"]
)
def test_members_that_a_program_does_not_have_are_refused(files, name):
    rewritten(files["pt2"], lambda members: members.update({name: b"x"}))
    refused(files["pt2"], "refused before it is loaded: it.* (is no part of a plain program|would lie outside of it)")


def in_graph(change):
    def whole(members):
        program = json.loads(members["models/model.json"])
        change(program)
        members["models/model.json"] = json.dumps(program)

    return whole


def size_text(text):
    def change(program):
        for value in program["graph_module"]["graph"]["sym_int_values"].values():
            if "as_expr" in value:
                value["as_expr"]["expr_str"] = text

    return in_graph(change)


@pytest.mark.parametrize(
    "text",
    [EVIL, f"eval(\"{EVIL}\")", "Symbol('s0').__class__", "[1][0]", "(lambda: 1)()", "9**9**9", "Pow(9, Pow(9, 9))",
     "Symbol('__import__')", "Integer('__import__(1)')", "s0 if s1 else s2", "f'{s0}'", "(" * 5000, "1" * 30_000, "os"],
)  # fmt: skip
def test_sizes_are_arithmetic_only(files, text):
    rewritten(files["pt2"], size_text(text))
    refused(files["pt2"], "refused before it is loaded: it has a size .*, which is no plain arithmetic")


@pytest.mark.parametrize(
    "target",
    ["torch.os.system", "torch.hub.load", "torch.ops.load_library", "torch.ops.aten.from_file.default",
     "torch.ops.aten.__class__.mro", "_operator.methodcaller", "_operator.attrgetter", "math.factorial", "torch.load",
     "torch.ops.higher_order.cond", "#x", "torch.ops.profiler._record_function_enter.default"],
)  # fmt: skip
def test_steps_are_operators_on_tensors_only(files, target):
    def change(program):
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    rewritten(files["pt2"], in_graph(change))
    refused(files["pt2"], "refused before it is loaded: .*(which is no operator of a detector|has no operator)")


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "collections.defaultdict", "context": '{"default_factory_module": "os"}', "children_spec": []},
        {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "os:x", "name": "a"}]', "children_spec": []},
        {"type": "builtins.tuple", "context": "{", "children_spec": []}, {"type": []},
    ],
)  # fmt: skip
def test_arguments_are_plain_containers(files, spec):
    def change(program):
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, spec])

    rewritten(files["pt2"], in_graph(change))
    refused(files["pt2"], "refused before it is loaded: its arguments are no plain containers")


def test_conditions_and_origins_as_text_are_not_given_to_torch(files):
    def change(program):
        program["guards_code"] = [EVIL]
        for node in program["graph_module"]["graph"]["nodes"]:
            node["metadata"]["source_fn_stack"] = f"x,{EVIL}"
            node["metadata"]["from_node"] = "{"

    rewritten(files["pt2"], in_graph(change))
    assert Detector.load(files["pt2"], "cpu").classes.names == ("cell", "dot", "ring")


@pytest.mark.parametrize("place", ["../outside.bin", "/etc/passwd", "beside.bin"])
def test_onnx_weights_in_other_files_are_refused(files, place):
    import onnx

    model = onnx.load(str(files["onnx"]))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=place)
    del model.metadata_props[1]
    onnx.save(model, str(files["onnx"]))
    refused(files["onnx"], f"refused: its weight .* lies in another file .*{Path(place).name}")


def test_onnx_operators_of_others_are_refused_wherever_they_stand(files):
    import onnx

    model = onnx.load(str(files["onnx"]))
    inner = onnx.helper.make_node("PyOp", [], ["y"], domain="ai.onnx.contrib")
    graph = onnx.helper.make_graph([inner], "g", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["z"], then_branch=graph, else_branch=graph))
    del model.metadata_props[1]
    onnx.save(model, str(files["onnx"]))
    refused(files["onnx"], r"refused: it asks for the operator PyOp of ai\.onnx\.contrib")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('version="opset1"', 'version="extension"', "asks for the operator .* of extension"),
        ('version="opset1"', 'version="../lib.so"', "asks for the operator"),
        ('<?xml version="1.0"?>', '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a "a">]>', "declares a document type"),
        ('offset="0"', 'offset="99999999999"', "asks for bytes 99999999999 to"),
        ('offset="0"', 'offset="-5"', "asks for bytes -5"),
        ("<layers>", "<layers>" + "<a>" * 100, "nested without end"),
    ],
)  # fmt: skip
def test_openvino_graphs_name_operators_and_weights_of_their_own(files, old, new, sentence):
    text = files["xml"].read_text()
    assert old in text
    files["xml"].write_text(text.replace(old, new, 1))
    refused(files["xml"], sentence)


@pytest.mark.parametrize("kind", ["onnx", "xml", "pt2"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.33, 0.6, 0.9, 0.97, 0.9995])
def test_a_flipped_bit_anywhere_is_noticed(files, kind, share):
    content = bytearray(files[kind].read_bytes())
    content[int(len(content) * share)] ^= 1
    files[kind].write_bytes(content)
    refused(files[kind], "export it again")
