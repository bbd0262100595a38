"""The recorded rotated Faster R-CNN of Detectron2 (RRPN): boxes with angles, at another size too, and the losses."""

import dataclasses

import pytest
import torch

from boxwright.convert.export import export
from boxwright.convert.files import convert_file
from boxwright.ops.rotated import rotated_hull, wrap_angles
from boxwright.recipes import dump_recipe
from boxwright.structures import GroundTruth, ImageBatch, Targets
from boxwright.weights.backbone_files import read_tensors, state_of

LIMITS = {"train_candidates": 400, "test_candidates": 300, "train_proposals": 400, "test_proposals": 300}
"""The recorded model's config has lower ones than the zoo's models, which its file does not say."""


@pytest.fixture(scope="module")
def case(shared):
    """Arrays, settings and the detector of the recorded case."""
    import json

    import numpy as np

    folder = shared / "fixtures/detectron2/rrpn_fpn"
    converted = convert_file(folder / "model.pkl")
    config = converted.recipe.model
    config = dataclasses.replace(
        config,
        rpn=dataclasses.replace(config.rpn, samples=100_000, **LIMITS),
        box=dataclasses.replace(config.box, samples=100_000),
    )
    model = converted.recipe.model_copy(update={"model": config}).build_model(len(converted.classes))
    model.load_state_dict(converted.weights)
    arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "case.npz").items()}
    images = [arrays[f"image{k}"].flip(0).contiguous() for k in range(2)]
    return arrays, json.loads((folder / "case.json").read_text()), converted, model.eval(), images


@pytest.mark.parametrize("prefix", ["", "single_", "resized_"])
def test_rotated_boxes_are_the_recorded_ones(case, prefix):
    arrays, _, converted, model, images = case
    batches = [ImageBatch.of([image]) for image in images] if prefix else [ImageBatch.of(images)]
    if prefix == "resized_":
        resized = dataclasses.replace(batches[0], original_hw=torch.tensor([[240, 320]]))
        batches = [dataclasses.replace(resized, scale_xy=torch.tensor([[256 / 320, 192 / 240]]))]
    with torch.no_grad():
        found = [one for batch in batches for one in
                 model.detect(model(batch), batch, converted.recipe.detect.settings())]  # fmt: skip
    for k, one in enumerate(found):
        boxes, scores, labels = (arrays[f"{prefix}{name}{k}"] for name in ("boxes", "scores", "classes"))
        off = one.rotated[:, None] - boxes
        off = torch.cat([off[..., :4], wrap_angles(off[..., 4:])], -1).abs().amax(-1)
        near = (off < 5e-3) & ((one.scores[:, None] - scores).abs() < 1e-5) & (one.labels[:, None] == labels)
        partners = near.any(1).sum(), near.any(0).sum()
        assert min(partners) >= len(boxes) - 1  # scores within a rounding error may swap at the end of the list
        assert len(one) == len(boxes) == 100
        size = torch.tensor([one.size_hw[1], one.size_hw[0]] * 2)
        assert (one.boxes - rotated_hull(one.rotated).clamp(min=0).minimum(size)).abs().max() < 1e-3


def test_it_goes_back_as_it_came(case, shared):
    theirs = state_of(read_tensors(shared / "fixtures/detectron2/rrpn_fpn/model.pkl"))
    converted = case[2]
    model = dump_recipe(converted.recipe)["model"]
    back = export(model, len(converted.classes), converted.weights, "detectron2")
    beside = {key for key in theirs if "cell_anchors" in key or key.startswith("pixel_")}
    assert set(back.state) == set(theirs) - beside
    for name, value in back.state.items():
        torch.testing.assert_close(value, torch.as_tensor(theirs[name]), rtol=1e-6, atol=1e-7)
    (said,) = (note for note in back.notes if "MODEL.PROPOSAL_GENERATOR.NAME RRPN" in note)
    assert "MODEL.RPN.BBOX_REG_WEIGHTS (1, 1, 1, 1, 1)" in said  # Detectron2's default has four, and it stops there
    assert any("box.offset_weights is [10.0, 10.0, 5.0, 5.0, 1.0], which its config must say" in note
               for note in back.notes)  # fmt: skip


def test_training_losses_are_the_recorded_ones(case):
    arrays, settings, _, model, images = case
    ground_truths = [
        GroundTruth.of(rotated_hull(arrays[f"gt_boxes{k}"]).clamp(min=0), arrays[f"gt_classes{k}"],
                       rotated=arrays[f"gt_boxes{k}"]) for k in range(2)
    ]  # fmt: skip
    targets = Targets.of(ground_truths)
    with torch.no_grad():
        losses = model.train().loss(model(ImageBatch.of(images), targets), targets)
    model.eval()
    names = ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"]
    assert [float(loss) for loss in losses.values()] == pytest.approx(
        [settings["losses"][name] for name in names], rel=1e-4
    )
