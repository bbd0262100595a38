import pytest
import torch

from boxwright.recipes import load_recipe
from boxwright.runtime.precision import AUTO_PRECISION, autocast, choose_precision, compile_parts
from boxwright.structures import ImageBatch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _machine_as_it_is(monkeypatch):
    monkeypatch.delenv(AUTO_PRECISION, raising=False)


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("forced", ["fp32", "bf16"])
def test_what_auto_means_can_be_said_by_the_environment(monkeypatch, device, forced):
    monkeypatch.setenv(AUTO_PRECISION, forced)
    assert choose_precision("auto", device) == forced
    assert choose_precision("fp32", device) == "fp32"
    monkeypatch.setenv(AUTO_PRECISION, "half")
    with pytest.raises(ValueError, match="BOXWRIGHT_AUTO_PRECISION: expected fp32 or bf16, got 'half'"):
        choose_precision("auto", device)


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_what_is_asked_for_is_what_is_used(wanted, device):
    assert choose_precision(wanted, device) == wanted


def test_half_precision_on_a_cpu_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="fp16 needs a GPU; on a CPU use fp32, bf16 or auto"):
        choose_precision("fp16", CPU)
    assert choose_precision("fp16", GPU) == "fp16"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_tile": True}, "bf16"), ({"avx512_f": True}, "fp32")],
)
def test_auto_takes_bfloat16_only_where_a_cpu_computes_it_natively(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_bfloat16_only_where_a_gpu_computes_it_natively(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert choose_precision("auto", GPU) == expected


def test_auto_on_anything_else_is_float32():
    assert choose_precision("auto", torch.device("mps")) == "fp32"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_run_in_the_chosen_type(precision, dtype):
    layer = torch.nn.Linear(2, 2)
    with autocast(CPU, precision):
        assert layer(torch.zeros(1, 2)).dtype == dtype
    assert layer(torch.zeros(1, 2)).dtype == torch.float32


def test_heads_are_compiled_but_not_those_of_masks(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part, **_: compiled.append(type(part).__name__))
    recipe = load_recipe("mask-rcnn-small", ["model.fpn.channels=32", "model.backbone=mobilenet_v3_small"])
    compile_parts(recipe.build_model(2))
    assert "MaskHead" not in compiled
    assert {"Backbone", "FeaturePyramid"} <= set(compiled)


@pytest.mark.parametrize("name", ["fcos-small", "retinanet-small", "rpn-small"])
def test_boxes_are_computed_in_float32_within_a_network_in_bfloat16(name):
    """In bfloat16 a side is right to one part in 256, and AP at high overlaps moves by more than a tenth of a point."""
    torch.manual_seed(0)
    recipe = load_recipe(name, ["model.backbone=mobilenet_v3_small", "model.fpn.channels=32"])
    model = recipe.build_model(2).eval()
    with torch.inference_mode(), autocast(CPU, "bf16"):
        outputs = model(ImageBatch.of([torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)]))
    logits, boxes = outputs[:2]
    assert (logits == logits.bfloat16()).all()
    assert (boxes != boxes.bfloat16()).float().mean() > 0.9
