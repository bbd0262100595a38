"""What a file is, it says itself; what it does not say can be given; what is not known is refused."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from configs import TWO_STAGE_COURSE, built

from boxwright.convert.export import export_state
from boxwright.convert.files import convert_file, convert_state
from boxwright.convert.torchvision import new_names
from boxwright.models import MODELS
from boxwright.recipes import check_recipe, dump_recipe
from boxwright.structures import Classes, DetectSettings, ImageBatch, Targets
from boxwright.weights.backbone_files import read_tensors, state_of

ALL = [
    "detectron2/fcos", "detectron2/retinanet", "detectron2/rpn_fpn", "detectron2/faster_rcnn_fpn",
    "detectron2/faster_rcnn_c4", "detectron2/mask_rcnn_fpn",
]  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_the_way_back_to_detectron2_is_exact(case_of, name):
    case = case_of(name)
    recipe, classes = case.converted.recipe, case.converted.classes
    back = export_state(
        dump_recipe(recipe)["model"], len(classes), case.converted.weights, "detectron2", case.converted.origin["kept"]
    )
    theirs = state_of(read_tensors(case.path))
    assert set(back) == set(theirs)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


def test_settings_that_the_other_library_has_not_are_refused_by_name(case_of):
    case = case_of("adelaidet/fcos")
    model = dump_recipe(case.converted.recipe)["model"]
    with pytest.raises(
        ValueError, match=r"detectron2 has no fcos like this one: .*scale_per_level True \(there False\)"
    ):
        export_state(model, 80, case.converted.weights, "detectron2")
    with pytest.raises(ValueError, match=r"expected torchvision or detectron2 or adelaidet or .*, got 'keras'"):
        export_state(model, 80, case.converted.weights, "keras")


@pytest.mark.parametrize("name", [*ALL, "adelaidet/fcos"])
def test_one_entry_too_few_or_too_many_refuses_the_file(case_of, name):
    state = state_of(read_tensors(case_of(name).path))
    last = list(state)[-1]
    with pytest.raises(ValueError, match=r"here: .*1 entry unused: extra\.weight"):
        convert_state({**state, "extra.weight": torch.ones(1)}, "here")
    with pytest.raises(ValueError, match=r"here: .*(missing|no entry)"):
        convert_state({key: value for key, value in state.items() if key != last}, "here")


def test_training_files_with_module_prefixes_and_old_constants_are_read(case_of, tmp_path):
    case = case_of("detectron2/fcos")
    state = {f"module.{key}": value for key, value in state_of(read_tensors(case.path)).items()}
    state["module.pixel_mean"] = torch.tensor([[[100.0]], [[110.0]], [[120.0]]])
    state["module.pixel_std"] = torch.tensor([[[50.0]], [[51.0]], [[52.0]]])
    state["module.anchor_generator.cell_anchors.0"] = torch.zeros(1, 4)
    torch.save({"model": state, "iteration": 89999, "optimizer": {"state": {}}}, tmp_path / "model_final.pth")
    found = convert_file(tmp_path / "model_final.pth", stride_in_1x1=False)
    assert found.recipe.model.backbone.pixel_mean == pytest.approx([120 / 255, 110 / 255, 100 / 255])
    assert found.recipe.model.backbone.pixel_std == pytest.approx([52 / 255, 51 / 255, 50 / 255])
    assert not found.recipe.model.backbone.stride_in_1x1
    assert found.notes == ()


def test_coco_has_its_names_and_other_counts_have_numbers(case_of):
    state = state_of(read_tensors(case_of("detectron2/fcos").path))
    assert convert_state(state, "x").classes.names[:2] == ("person", "bicycle")
    assert convert_state(state, "x").classes.ids[-1] == 90
    fewer = {key: value[:3] if key.startswith("head.cls_score") else value for key, value in state.items()}
    assert convert_state(fewer, "x").classes.names == ("class 0", "class 1", "class 2")
    own = Classes.named(["a", "b", "c"])
    assert convert_state(fewer, "x", classes=own).classes == own
    with pytest.raises(ValueError, match="80 classes, but 3 names were given"):
        convert_state(state, "x", classes=own)


def test_a_backbone_is_no_detector():
    with pytest.raises(ValueError, match=r"a classification network, no detector: give it as model\.backbone\.weights"):
        convert_state({"conv1.weight": torch.ones(1), "fc.weight": torch.ones(1)}, "r50.pth")
    with pytest.raises(ValueError, match=r"no detector of torchvision, .*: its entries are called a, b"):
        convert_state({"a": torch.ones(1), "b": torch.ones(1)}, "x.pth")


def original(state):
    """An AdelaiDet state dict with the names of the original repository."""
    names = {}
    for key, value in state.items():
        new = key.replace("backbone.bottom_up.stem.conv1.norm.", "backbone.body.stem.bn1.")
        new = new.replace("backbone.bottom_up.stem.conv1.", "backbone.body.stem.conv1.")
        for stage in range(2, 6):
            new = new.replace(f"backbone.bottom_up.res{stage}.", f"backbone.body.layer{stage - 1}.")
        for part in (1, 2, 3):
            new = new.replace(f".conv{part}.norm.", f".bn{part}.")
        new = new.replace(".shortcut.norm.", ".downsample.1.").replace(".shortcut.", ".downsample.0.")
        for level in (3, 4, 5):
            new = new.replace(f"fpn_lateral{level}.", f"fpn.fpn_inner{level - 1}.")
            new = new.replace(f"fpn_output{level}.", f"fpn.fpn_layer{level - 1}.")
        new = new.replace("backbone.top_block.", "backbone.fpn.top_blocks.").replace("ctrness", "centerness")
        names[new.replace("proposal_generator.fcos_head.", "rpn.head.")] = value
    return names


def test_the_original_fcos_needs_to_be_told_its_variant(case_of, tmp_path):
    state = original(state_of(read_tensors(case_of("adelaidet/fcos").path)))
    torch.save({"model": state}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match='give variant="baseline"'):
        convert_file(tmp_path / "model.pth")
    baseline = convert_file(tmp_path / "model.pth", variant="baseline").recipe.model
    improved = convert_file(tmp_path / "model.pth", variant="improved").recipe.model
    assert (baseline.head.box_output, baseline.head.centerness_on) == ("exp", "class")
    assert (improved.head.box_output, improved.head.centerness_on) == ("relu", "box")
    assert (baseline.assignment.center_radius, improved.assignment.center_radius) == (None, 1.5)
    assert baseline.compat.inclusive_pixels
    assert baseline.backbone.norm_eps == 0
    (tmp_path / "model.pth").rename(tmp_path / "FCOS_imprv_R_50_FPN_1x.pth")
    assert convert_file(tmp_path / "FCOS_imprv_R_50_FPN_1x.pth").recipe.model == improved


def test_the_original_improved_fcos_sees_what_adelaidets_sees_but_for_its_means_and_eps(case_of):
    case = case_of("adelaidet/fcos")
    found = convert_state(original(state_of(read_tensors(case.path))), "x", {"variant": "improved"})
    model = found.recipe.model
    backbone = dataclasses.replace(model.backbone, pixel_mean=case.converted.recipe.model.backbone.pixel_mean)
    ours = MODELS["fcos"].build(dataclasses.replace(model, backbone=backbone), 80)
    ours.load_state_dict(found.weights)
    images = ImageBatch.of(case.images)
    with torch.no_grad():
        one, other = ours.eval()(images), case.model(images)
    torch.testing.assert_close(one.class_logits, other.class_logits, rtol=0, atol=5e-3)
    with torch.no_grad():
        boxes = ours.detect_padded(one, DetectSettings(score_threshold=0.0)).boxes
    limits = torch.tensor([case.images[0].shape[2] - 1, case.images[0].shape[1] - 1])
    assert (boxes[0, :, 2:] <= limits).all()


def test_old_names_of_torchvision_are_todays():
    old = {
        "backbone.fpn.inner_blocks.0.weight": 0, "head.classification_head.conv.2.weight": 1, "rpn.head.conv.bias": 2,
        "roi_heads.mask_head.mask_fcn4.weight": 3, "roi_heads.mask_predictor.conv5_mask.weight": 4,
    }  # fmt: skip
    assert new_names(old) == {
        "backbone.fpn.inner_blocks.0.0.weight": 0, "head.classification_head.conv.1.0.weight": 1,
        "rpn.head.conv.0.0.bias": 2, "roi_heads.mask_head.3.0.weight": 3,
        "roi_heads.mask_predictor.conv5_mask.weight": 4,
    }  # fmt: skip
    fcos = {"head.classification_head.conv.3.weight": 0, "head.regression_head.bbox_ctrness.weight": 1}
    assert new_names(fcos) == fcos


class TestCourse:
    @pytest.fixture(scope="class")
    def folder(self, shared):
        return shared / "fixtures" / "course_fcos"

    def test_the_recorded_detections_and_losses_come_from_the_file_alone(self, folder):
        found = convert_file(folder / "fcos_detector.pt")
        assert (found.origin["architecture"], found.classes.names[14]) == ("FCOS, variant 001", "person")
        changes = {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}  # the recorded images are normalised
        section = found.recipe.model
        section = dataclasses.replace(section, backbone=dataclasses.replace(section.backbone, **changes))
        recipe = found.recipe.model_copy(update={"model": section})
        model = recipe.build_model(20)
        model.load_state_dict(found.weights)
        arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "case.npz").items()}
        images = ImageBatch.of(list(arrays["images"]))
        with torch.no_grad():
            one, two = model.eval().detect(model(images), images, recipe.detect.settings())
        for k, got in enumerate((one, two)):
            torch.testing.assert_close(got.scores, arrays[f"scores{k}"], rtol=0, atol=1e-5)
            torch.testing.assert_close(got.boxes, arrays[f"boxes{k}"], rtol=0, atol=1e-3)
            assert torch.equal(got.labels, arrays[f"classes{k}"])
        ground_truth = arrays["gt_boxes"]  # (B, G, 5), -1 in the last where there is none
        valid = ground_truth[..., 4] >= 0
        targets = Targets(
            ground_truth[..., :4], ground_truth[..., 4].long().clamp(min=0), torch.zeros_like(valid), valid
        )
        model.train()
        for part in model.modules():  # the recorded step had its statistics held
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()
        with torch.no_grad():
            losses = model.loss(model(images, targets), targets)
        recorded = json.loads((folder / "case.json").read_text())["losses"]
        expected = [recorded[name] for name in ("loss_cls", "loss_box", "loss_ctr")]
        assert [float(losses[name]) for name in ("classification", "box", "centerness")] == pytest.approx(
            expected, rel=1e-4
        )

    @pytest.mark.parametrize("style", ["001", "003", "printed"])
    def test_the_names_of_the_pyramid_tell_the_seeds_apart(self, folder, style):
        from boxwright.convert.course import PYRAMIDS

        state = state_of(read_tensors(folder / "fcos_detector.pt"))
        for level in (3, 4, 5):
            for old, new in zip(PYRAMIDS["001"], PYRAMIDS[style], strict=True):
                for end in ("weight", "bias"):
                    key = f"backbone.fpn_params.{old.format(level)}.{end}"
                    state[f"backbone.fpn_params.{new.format(level)}.{end}"] = state.pop(key)
        model = convert_state(state, "x").recipe.model
        third = style == "003"
        assert model.compat.locations == ("swapped" if third else "centre")
        assert (model.head.centerness_on, model.loss.box) == (("class", "l1") if third else ("box", "giou"))
        forced = convert_state(state, "x", {"variant": "003"}).recipe.model
        assert forced.compat.locations == "swapped"


def detectron2_state(model, classes=6):
    """A state dict of Detectron2's names with random weights, from one of our detectors."""
    recipe = check_recipe({"model": model, "schedule": {"steps": 1}}, "test")
    return export_state(dump_recipe(recipe)["model"], classes, _weights(model, classes), "detectron2")


def _weights(model, classes):
    recipe = check_recipe({"model": model, "schedule": {"steps": 1}}, "test")
    torch.manual_seed(0)
    return recipe.build_model(classes).state_dict()


SLIM = {"widths": [16, 32, 8, 1], "stride_in_1x1": True, "pixel_std": [1 / 255] * 3}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"name": "faster_rcnn", "backbone": {**SLIM, "name": "resnet101", "dilated_c5": True},
          "fpn": {"levels": ["c5"], "channels": None}, "rpn": {"stem_channels": [256]},
          "box": {"fc_channels": [32, 32]}}, ("faster_rcnn DC5", "resnet101", True)),
        ({"name": "mask_rcnn", "backbone": SLIM, "fpn": {"levels": ["c4"], "channels": None},
          "rpn": {"stem_channels": [128]},
          "box": {"stage_head": True, "pool_size": 14}, "mask": {"conv_channels": [], "upsampled_channels": 16}},
         ("mask_rcnn C4", "resnet50", True)),
        ({"name": "rpn", "backbone": SLIM, "fpn": {"levels": ["c4"], "channels": None},
          "rpn": {"stem_channels": [128]}}, ("rpn C4", "resnet50", True)),
        ({"name": "faster_rcnn", "backbone": {"name": "resnext101_32x8d", "widths": [8, 64, 1, 32]},
          "fpn": {"levels": ["c2", "c3", "c4", "c5"], "channels": 32}, "rpn": {"stem_channels": [32]},
          "box": {"fc_channels": [32, 32], "regression": "agnostic"}}, ("faster_rcnn FPN", "resnet101", False)),
    ],
)  # fmt: skip
def test_what_the_recorded_cases_do_not_show_is_recognised_and_comes_back(model, expected):
    """DC5, C4 with masks, RPN on C4, and a grouped backbone: strides, dilation and widths from the file alone."""
    model = {**model, "rpn": {**model["rpn"], "anchor_grid": "corner"}}
    levels = model["fpn"]["levels"]
    model["compat"] = {"pad_multiple": 32 if len(levels) > 1 else 1}
    if len(levels) == 1:
        model["rpn"] |= {"anchor_sizes": [[32, 64, 128, 256, 512]], "pooled_level": False}
    found = convert_state(state := detectron2_state(model), "x")
    section = found.recipe.model
    architecture, backbone, in_1x1 = expected
    assert (found.origin["architecture"], section.backbone.name) == (architecture, backbone)
    assert section.backbone.stride_in_1x1 == in_1x1
    assert section.backbone.dilated_c5 == (levels == ["c5"])
    assert list(section.backbone.widths) == model["backbone"]["widths"]
    weights = _weights(model, 6)
    assert all(torch.equal(found.weights[name], value) for name, value in weights.items() if "tracked" not in name)
    assert set(export_state(dump_recipe(found.recipe)["model"], 6, found.weights, "detectron2")) == set(state)


def test_full_widths_are_told_by_torchvisions_names():
    """A full ResNeXt-101 32x8d has no unusual widths, and its strides in the 3x3."""
    from boxwright.convert.architecture import resnet_of
    from boxwright.models.detection import empty_state
    from boxwright.models.retinanet import RetinaNet, RetinaNetConfig
    from boxwright.models.sections import BackboneSection

    state = empty_state(RetinaNet, RetinaNetConfig(backbone=BackboneSection(name="resnext101_32x8d")), 2)
    assert resnet_of(state, "backbone.body.conv1.weight", "backbone.body.layer{}.", 1) == ("resnext101_32x8d", None, 32)


def test_batch_norm_of_each_level_is_read_and_used(case_of):
    """AdelaiDet's BN heads: one BatchNorm a level within shared convolutions."""
    state = state_of(read_tensors(case_of("adelaidet/fcos").path))
    torch.manual_seed(0)
    for key in [key for key in state if re.search(r"tower\.(1|4|7|10)\.(weight|bias)$", key)]:
        place, end = key.rsplit(".", 1)
        width = len(state.pop(key))
        for level in range(5):
            state[f"{place}.{level}.{end}"] = torch.rand(width) + 0.5
            state[f"{place}.{level}.running_mean"] = torch.randn(width) * 0.1
            state[f"{place}.{level}.running_var"] = torch.rand(width) + 0.5
            state[f"{place}.{level}.num_batches_tracked"] = torch.tensor(5)
    found = convert_state(state, "x")
    assert found.recipe.model.head.norm == "level_bn"
    head = found.recipe.build_model(80).eval()
    head.load_state_dict(found.weights)
    maps = [torch.randn(1, 32, side, side) for side in (8, 4, 2, 1, 1)]
    with torch.no_grad():
        logits = head.head(maps)[0]
        expected = maps[1]
        prefix = "proposal_generator.fcos_head.cls_"
        for k in range(4):
            conv, norm = f"{prefix}tower.{3 * k}.", f"{prefix}tower.{3 * k + 1}.1."
            expected = F.conv2d(expected, state[f"{conv}weight"], state[f"{conv}bias"], padding=1)
            expected = F.batch_norm(expected, *(state[norm + end] for end in ("running_mean", "running_var")),
                                    *(state[norm + end] for end in ("weight", "bias"))).relu()  # fmt: skip
        expected = F.conv2d(expected, state[f"{prefix}logits.weight"], state[f"{prefix}logits.bias"], padding=1)
    torch.testing.assert_close(logits[0, 64:80], expected[0].flatten(1).T)


def test_the_courses_faster_rcnn_is_read_with_background_moved_to_the_end():
    model = built("faster_rcnn", 20, {**TWO_STAGE_COURSE, "rpn.samples": 32, "box.samples": 32})
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("trunk.backbone.body.", "backbone.backbone.").replace("rpn.stem.", "rpn.pred_net.stem_rpn.")
        for k in (3, 4, 5):
            key = key.replace(f"trunk.fpn.laterals.{k - 3}.", f"backbone.fpn_params.l{k}.")
            key = key.replace(f"trunk.fpn.outputs.{k - 3}.", f"backbone.fpn_params.p{k}.")
        key = key.replace("rpn.objectness.", "rpn.pred_net.pred_obj.").replace("rpn.offsets.", "rpn.pred_net.pred_box.")
        key = key.replace("box.head.convolutions.", "cls_pred.")
        if key.startswith("box.class_logits."):
            key, value = key.replace("box.class_logits.", "cls_pred.5."), value.roll(1, 0)
        state[key] = value
    found = convert_state(state, "x")
    assert (found.origin["architecture"], found.classes.names[0]) == ("Faster R-CNN", "aeroplane")
    assert all(torch.equal(found.weights[key], value) for key, value in model.state_dict().items())
    assert found.recipe.model == model.config
