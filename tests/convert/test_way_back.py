"""Detectors trained here, in files of other libraries: their names and shapes, and read back the same detections."""

import re

import pytest
import torch
from configs import TWO_STAGE_COURSE, built

from boxwright.convert.export import ADAPTED, export, export_state, write_state
from boxwright.convert.files import convert_file, convert_state
from boxwright.convert.mmdetection_text import meta_of
from boxwright.recipes import check_recipe, dump_recipe, load_recipe
from boxwright.recipes.compat import SWITCHES, differing
from boxwright.structures import Classes, DetectSettings, ImageBatch
from boxwright.weights.backbone_files import read_tensors, state_of

NARROW = (
    "model.backbone.weights=null", "model.backbone.widths=[8,16,4,1]", "model.fpn.channels=32",
)  # fmt: skip
DENSE = ("model.head.stem_channels=[32,32]",)
REGIONS = (
    "model.rpn.stem_channels=[32]", "model.box.fc_channels=[32,32]", "model.rpn.test_candidates=200",
    "model.rpn.test_proposals=100",
)  # fmt: skip
MASKS = ("model.mask.conv_channels=[8]", "model.mask.upsampled_channels=8")
KEYPOINTS = ("model.keypoint.conv_channels=[8,8]", "model.keypoint.num_keypoints=4")
NO_PYRAMID = ("model.fpn.channels=null", "model.rpn.stem_channels=[16]")
CASES = {
    "detectron2": {
        "fcos-r50-fpn-1x-improved": DENSE, "fcos-r50-fpn-1x": DENSE, "retinanet-r50-fpn-1x": DENSE,
        "faster-rcnn-r50-fpn-1x": REGIONS, "faster-rcnn-r50-dc5-1x": (*REGIONS, *NO_PYRAMID),
        "mask-rcnn-r50-fpn-1x": (*REGIONS, *MASKS), "mask-rcnn-r50-c4-1x": (*NO_PYRAMID, "model.mask.conv_channels=[]"),
        "keypoint-rcnn-r50-fpn-1x": (*REGIONS, *KEYPOINTS),
        "rpn-r50-fpn-1x": ("model.rpn.stem_channels=[32]",),
        "rotated-faster-rcnn-r50-fpn-1x": REGIONS,
    },
    "adelaidet": {"fcos-r50-fpn-1x-improved": DENSE, "fcos-r50-fpn-1x": DENSE},
    "mmdetection": {
        "fcos-r50-fpn-1x-improved": DENSE, "fcos-r50-fpn-1x-gn": DENSE, "retinanet-r50-fpn-1x": DENSE,
        "faster-rcnn-r50-fpn-1x": REGIONS, "mask-rcnn-r50-fpn-1x": (*REGIONS, *MASKS),
    },
    "torchvision": {
        "fcos-r50-fpn-1x-improved": DENSE, "retinanet-r50-fpn-1x": DENSE, "faster-rcnn-r50-fpn-1x": REGIONS,
        "mask-rcnn-r50-fpn-1x": (*REGIONS, *MASKS), "keypoint-rcnn-r50-fpn-1x": (*REGIONS, *KEYPOINTS),
    },
}  # fmt: skip
PAIRS = [(library, name) for library, names in CASES.items() for name in names]
CLASSES = Classes.named(["a", "b", "c"])
DETECT = DetectSettings(score_threshold=0.0, nms_iou=0.5, candidates_per_level=200, max_detections=50)


def trained(recipe, classes=3):
    """The recipe's detector with weights that find something: no two classes, levels or anchors are alike."""
    torch.manual_seed(0)
    model = recipe.build_model(classes)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "backbone.body" not in name and "scales" not in name:
                value.add_(torch.randn_like(value) * (0.3 if value.dim() == 1 else 0.02))
            if name == "head.class_logits.bias":  # above the 0.05 of AdelaiDet and MMDetection
                value.add_(3.0)
            if name.endswith("head.scales"):
                value.copy_(torch.tensor([0.8, 0.9, 1.1, 1.2, 1.3]))
    return model.eval()


def found_by(model, settings=DETECT):
    generator = torch.Generator().manual_seed(1)
    images = ImageBatch.of([torch.randint(0, 256, (3, 75, 101), dtype=torch.uint8, generator=generator)])
    with torch.no_grad():
        return model.detect(model(images), images, settings)[0]


@pytest.fixture
def assert_same(assert_matched):
    """Two detections of one image matched one to one, their masks and keypoints equal but for a few."""

    def compare(one, other):
        assert len(one) > 5
        expected = (other.boxes, other.scores, other.labels)
        assert_matched(one, expected, box=5e-3, score=2e-5, swaps=1)
        assert (one.rotated is None) == (other.rotated is None)
        if one.rotated is not None and torch.equal(one.labels, other.labels):
            assert (one.rotated - other.rotated)[:, :4].abs().max() < 0.05
        if one.masks is not None and torch.equal(one.labels, other.labels):
            assert (one.whole_masks() != other.whole_masks()).float().mean() < 1e-2
        assert (one.keypoints is None) == (other.keypoints is None)
        if one.keypoints is not None and torch.equal(one.labels, other.labels):
            assert ((one.keypoints - other.keypoints)[..., :2].abs().amax(-1) < 0.1).float().mean() > 0.95

    return compare


def written(recipe, weights, library, path, **options):
    back = export(dump_recipe(recipe)["model"], 3, weights, library, **options)
    meta = meta_of(dump_recipe(recipe), CLASSES) if library == "mmdetection" else None
    write_state(back.state, path, library, meta)
    return back


def read(path, library):
    """As it is read here; that strides are in the 3x3 does not stand in files of Detectron2 and AdelaiDet."""
    plain = {"stride_in_1x1": False} if library in ("detectron2", "adelaidet") else {}
    converted = convert_file(path, **plain)
    config = dump_recipe(converted.recipe)
    for key in ("test_candidates", "test_proposals"):  # in the config of the other library
        if "rpn" in config["model"]:
            config["model"]["rpn"][key] = {"test_candidates": 200, "test_proposals": 100}[key]
    model = check_recipe(config, "read").build_model(len(converted.classes))
    model.load_state_dict(converted.weights)
    return model.eval()


@pytest.mark.parametrize(("library", "name"), PAIRS, ids=[f"{library}-{name}" for library, name in PAIRS])
def test_a_recipe_with_the_switch_is_written_and_read_back_as_the_same_detector(library, name, tmp_path, assert_same):
    limits = (
        ("model.rpn.test_candidates=200", "model.rpn.test_proposals=100") if "rcnn" in name or "rpn" in name else ()
    )
    recipe = load_recipe(name, [f"compat={library}", *NARROW, *limits, *CASES[library][name]])
    assert recipe.compat == library
    model = trained(recipe)
    back = written(recipe, model.state_dict(), library, tmp_path / "there.pth")
    assert not any("differ" in note for note in back.notes)
    assert_same(found_by(model), found_by(read(tmp_path / "there.pth", library)))


RECORDED = {
    "detectron2/fcos": "fcos-r50-fpn-1x-improved", "detectron2/retinanet": "retinanet-r50-fpn-1x",
    "detectron2/rpn_fpn": "rpn-r50-fpn-1x", "detectron2/faster_rcnn_fpn": "faster-rcnn-r50-fpn-1x",
    "detectron2/faster_rcnn_c4": "faster-rcnn-r50-c4-1x", "detectron2/mask_rcnn_fpn": "mask-rcnn-r50-fpn-1x",
    "adelaidet/fcos": "fcos-r50-fpn-1x-improved", "mmdetection/fcos_r50_improved": "fcos-r50-fpn-1x-improved",
    "mmdetection/retinanet_r50": "retinanet-r50-fpn-1x", "mmdetection/faster_rcnn_r50": "faster-rcnn-r50-fpn-1x",
    "mmdetection/mask_rcnn_r50": "mask-rcnn-r50-fpn-1x",
    "detectron2/keypoint_rcnn_fpn": "keypoint-rcnn-r50-fpn-1x",
}  # fmt: skip
WIDTHS = re.compile(r"(backbone\.widths|fpn\.channels|stem_channels|conv_channels|fc_channels|upsampled_channels)$")


@pytest.mark.parametrize("case", RECORDED)
def test_names_and_shapes_are_those_of_the_libraries_own_file(case_of, case):
    """Recorded from Detectron2, AdelaiDet and MMDetection; our recipe has only its widths changed to theirs."""
    theirs, library = state_of(read_tensors(case_of(case).path)), case.partition("/")[0]
    own = dump_recipe(load_recipe(RECORDED[case], [f"compat={library}", "model.backbone.weights=null"]))
    model = with_widths(own["model"], dump_recipe(case_of(case).converted.recipe)["model"])
    recipe = check_recipe(own | {"model": model}, "test")
    classes = len(case_of(case).converted.classes)
    state = export_state(model, classes, recipe.build_model(classes).state_dict(), library)
    counted = {key for key in theirs if key.endswith("num_batches_tracked")}
    anchors = {key for key in theirs if "cell_anchors" in key or key.startswith("pixel_")}
    assert set(state) == set(theirs) - counted - anchors
    assert {key: tuple(value.shape) for key, value in state.items()} == {key: tuple(theirs[key].shape) for key in state}


def with_widths(own, theirs, prefix=""):
    merged = {}
    for key, value in own.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            merged[key] = with_widths(value, theirs.get(key, {}), f"{name}.")
        else:
            merged[key] = theirs[key] if WIDTHS.search(name) and key in theirs else value
    return merged


def test_recipes_on_resnet_50_accept_the_switch_of_detectron2_but_fcos_with_masks():
    from boxwright.recipes import recipe_names

    for name in (name for name in recipe_names() if "-r50-" in name):
        if name.startswith("fcos-mask"):
            kind = load_recipe(name).model.name
            with pytest.raises(ValueError, match=f"compat: detectron2 has no detector like {kind}; it"):
                load_recipe(name, ["compat=detectron2"])
            continue
        recipe = load_recipe(name, ["compat=detectron2"])
        assert not differing("detectron2", dump_recipe(recipe)["model"])
        assert recipe.data.resize.filter == "pillow"


def test_the_switch_changes_nothing_that_it_need_not():
    own, there = (load_recipe("retinanet-r50-fpn-1x", words) for words in ([], ["compat=detectron2"]))
    one, other = dump_recipe(own), dump_recipe(there)
    assert other["model"]["compat"] == one["model"]["compat"] | {
        "anchor_grid": "corner", "clip": "after_nms", "pad_multiple": 32
    }  # fmt: skip
    assert {key for key in one if one[key] != other[key]} == {"model", "data", "compat"}
    assert {key for key in one["model"] if one["model"][key] != other["model"][key]} == {"compat"}


def test_what_is_set_against_the_switch_is_refused():
    with pytest.raises(
        ValueError, match=r"compat: detectron2 has no fcos like this one: head\.norm 'none' \(there 'gn'\)"
    ):
        load_recipe("fcos-r50-fpn-1x", ["compat=detectron2", "model.head.norm=none"])
    with pytest.raises(ValueError, match=r"compat: .* 'adelaidet' or 'mmdetection', got 'keras'"):
        load_recipe("fcos-r50-fpn-1x", ["compat=keras"])


def test_a_recipe_file_may_hold_the_switch(tmp_path):
    (tmp_path / "own.yaml").write_text("base: fcos-r50-fpn-1x-improved\ncompat: detectron2\n")
    assert load_recipe(tmp_path / "own.yaml").model.head.scale_per_level is False
    (tmp_path / "own.yaml").write_text("base: fcos-r50-fpn-1x\ncompat: adelaidet\nmodel: {head: {box_output: exp}}\n")
    with pytest.raises(ValueError, match=r"head\.box_output 'exp' \(there 'relu'\)"):
        load_recipe(tmp_path / "own.yaml")


def test_without_the_switch_the_reasons_are_told_and_what_would_have_helped():
    recipe = load_recipe("fcos-r50-fpn-1x-improved", [*NARROW, *DENSE])
    weights = trained(recipe).state_dict()
    with pytest.raises(ValueError, match="detectron2 has no fcos like this one") as refused:
        export_state(dump_recipe(recipe)["model"], 3, weights, "detectron2")
    for part in ("head.scale_per_level True (there False)", "compat.pad_multiple 1 (there 32)",
                 "trained with compat=detectron2", "AdelaiDet has a factor for each level"):  # fmt: skip
        assert part in str(refused.value)
    small = load_recipe("fcos-small")
    with pytest.raises(ValueError, match=r"compat=detectron2 changes all but backbone\.name, fpn\.extra_levels,"):
        export_state(dump_recipe(small)["model"], 3, {}, "detectron2")


@pytest.mark.parametrize(
    "name",
    ["retinanet-r50-fpn-1x", "faster-rcnn-r50-fpn-1x", "mask-rcnn-r50-c4-1x", "rotated-faster-rcnn-r50-fpn-1x"],
)
def test_anchors_at_centres_are_folded_exactly_and_other_rules_are_taken_when_asked(name, tmp_path, assert_same):
    """Half a cell is a constant of dx where anchors double from level to level."""
    overrides = [*NARROW, *(CASES["detectron2"] | {})[name]]
    if "rcnn" in name:
        overrides += ["model.rpn.test_candidates=200", "model.rpn.test_proposals=100"]
    recipe = load_recipe(name, overrides)
    model = trained(recipe)
    pyramid = recipe.model.fpn.channels is not None
    if pyramid:
        with pytest.raises(ValueError, match="pad_multiple 1") as refused:
            written(recipe, model.state_dict(), "detectron2", tmp_path / "no.pth")
        assert "anchor_grid" not in str(refused.value)
        assert "--adapt" in str(refused.value)
    back = written(recipe, model.state_dict(), "detectron2", tmp_path / "there.pth", adapt=True)
    assert sum("detections may differ" in note for note in back.notes) == (0 if not pyramid else 1 + ("retina" in name))
    there = read(tmp_path / "there.pth", "detectron2")
    # the same detector with the rules that were taken: padding, and for RetinaNet clipping at the end
    config = dump_recipe(recipe)
    config["model"]["compat"] |= {"pad_multiple": 32} if pyramid else {}
    config["model"]["compat"] |= {"clip": "after_nms"} if "retina" in name else {}
    taken = check_recipe(config, "taken").build_model(3).eval()
    taken.load_state_dict(model.state_dict())
    assert_same(found_by(taken), found_by(there))


def test_samples_of_rotated_regions_in_other_numbers_than_those_of_detectron2_are_refused():
    """What is pooled differs, and a file does not say it."""
    recipe = load_recipe("rotated-faster-rcnn-r50-fpn-1x", [*NARROW, *REGIONS, "model.box.pool_sampling=2"])
    with pytest.raises(ValueError, match=r"box\.pool_sampling 2 \(there 0\)"):
        export_state(dump_recipe(recipe)["model"], 3, {}, "detectron2")


def test_anchors_that_do_not_double_are_not_folded():
    recipe = load_recipe("retinanet-r50-fpn-1x", [*NARROW, *DENSE, "model.anchors.sizes=[32,60,128,256,512]"])
    with pytest.raises(ValueError, match=r"compat\.anchor_grid 'centre' \(there 'corner'\)"):
        export(dump_recipe(recipe)["model"], 3, trained(recipe).state_dict(), "detectron2", adapt=True)


def test_what_stands_in_the_other_librarys_config_is_told():
    overrides = ["compat=detectron2", *NARROW, *DENSE, "model.anchors.sizes=[16,32,64,128,256]"]
    recipe = load_recipe("retinanet-r50-fpn-1x", [*overrides, "model.backbone.pixel_mean=[0.5,0.5,0.5]"])
    back = export(dump_recipe(recipe)["model"], 3, trained(recipe).state_dict(), "detectron2")
    notes = "\n".join(back.notes)
    assert "anchors.sizes is [16.0, 32.0, 64.0, 128.0, 256.0], which its config must say" in notes
    assert "MODEL.RESNETS.STRIDE_IN_1X1 False" in notes
    assert "MODEL.PIXEL_MEAN [127.5, 127.5, 127.5]" in notes
    again = convert_state(back.state, "x").recipe.model.backbone
    assert again.pixel_mean == pytest.approx((0.5, 0.5, 0.5))


def test_the_deviation_of_pixels_is_folded_into_the_first_convolution():
    recipe = load_recipe("retinanet-r50-fpn-1x", ["compat=detectron2", *NARROW, *DENSE])
    weights = trained(recipe).state_dict()
    state = export_state(dump_recipe(recipe)["model"], 3, weights, "detectron2")
    first = state["backbone.bottom_up.stem.conv1.weight"]  # BGR in 0 to 255
    std = torch.tensor([0.225, 0.224, 0.229]) * 255
    torch.testing.assert_close(first * std[:, None, None], weights["backbone.body.conv1.weight"].flip(1))


def test_anchors_that_mmdetection_cannot_state_are_refused():
    recipe = load_recipe("retinanet-r50-fpn-1x", ["compat=mmdetection", "model.anchors.scales=[1,1.5]"])
    with pytest.raises(ValueError, match=r"anchors\.scales that divide an octave evenly, got .*\[1(\.0)?, 1\.5\]"):
        meta_of(dump_recipe(recipe), CLASSES)


class TestTheCourse:
    def test_its_recorded_file_comes_back_entry_by_entry(self, shared):
        path = shared / "fixtures" / "course_fcos" / "fcos_detector.pt"
        theirs, found = state_of(read_tensors(path)), convert_file(path)
        back = export_state(dump_recipe(found.recipe)["model"], 20, found.weights, "course", found.origin["kept"])
        assert set(back) == set(theirs)
        assert all(torch.equal(back[key], theirs[key].to(back[key].dtype)) for key in theirs)

    @pytest.mark.parametrize("variant", ["001", "003"])
    def test_its_recipe_goes_there_as_it_is(self, variant, tmp_path, assert_same):
        third = ("model.head.centerness_on=class", "model.compat.locations=swapped") if variant == "003" else ()
        recipe = load_recipe("fcos-regnetx400mf-224", ["model.backbone.weights=null", *third])
        model = trained(recipe)
        written(recipe, model.state_dict(), "course", tmp_path / "fcos_detector.pt")
        again = convert_file(tmp_path / "fcos_detector.pt")
        assert again.origin["architecture"] == f"FCOS, variant {variant}"
        copy = again.recipe.build_model(3).eval()
        copy.load_state_dict(again.weights)
        assert_same(found_by(model), found_by(copy))

    def test_its_faster_rcnn_goes_there_and_back(self):
        model = built("faster_rcnn", 20, TWO_STAGE_COURSE)
        recipe = check_recipe({"model": {"name": "faster_rcnn"}, "schedule": {"steps": 1}}, "x")
        recipe = recipe.model_copy(update={"model": model.config})
        state = export_state(dump_recipe(recipe)["model"], 20, model.state_dict(), "course")
        assert state["cls_pred.5.weight"][0].equal(model.state_dict()["box.class_logits.weight"][20])
        again = convert_state(state, "x").weights
        assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())

    def test_other_detectors_are_refused_by_their_reasons(self):
        small = dump_recipe(load_recipe("fcos-small"))["model"]
        with pytest.raises(
            ValueError, match=r"course has no fcos like this one: backbone\.name 'resnet18' \(there 'regn"
        ):
            export_state(small, 3, {}, "course")


def test_every_switch_is_a_library_and_what_may_be_adapted_is_a_rule_of_some_library():
    from boxwright.recipes.compat import rules

    names = ("fcos", "retinanet", "faster-rcnn", "mask-rcnn", "keypoint-rcnn")
    models = [dump_recipe(load_recipe(name))["model"] for name in names]
    keys = set()
    for library in SWITCHES:
        for model in models:
            unknown = {"adelaidet": model["name"] != "fcos", "mmdetection": model["name"] == "keypoint_rcnn"}
            if not unknown.get(library):
                found = rules(library, model)
                keys |= {*found.chosen, *found.fixed}
    assert keys >= ADAPTED
