"""An object can be learnt if it owns something in the assignment of the loss: the same answer, without a network."""

from dataclasses import replace

import pytest
import torch
from tiny_detectors import build

from boxwright.models import fcos, proposal_network, retinanet
from boxwright.models.claims import claimed, held_detector, others
from boxwright.structures import GroundTruth, ImageBatch, Targets

DECIDED = ["improved", "baseline", "course", "retinanet", "rpn", "faster_rcnn", "two_stage_course", "mask_rcnn",
           "fcos_mask"]  # fmt: skip


def crowd(seed, size_hw):
    """Objects of all sizes, thin ones and tiny ones, one to ignore."""
    generator = torch.Generator().manual_seed(seed)
    limits = torch.tensor([size_hw[1], size_hw[0]])
    corner = torch.rand(14, 2, generator=generator) * limits * 0.9
    sides = torch.rand(14, 2, generator=generator) ** 4 * limits + 0.5
    boxes = torch.cat([corner, torch.minimum(corner + sides, limits.float())], 1)
    return GroundTruth.of(boxes, torch.randint(0, 3, (14,), generator=generator), [True] + 13 * [False])


@pytest.mark.parametrize("name", DECIDED)
def test_what_is_claimed_is_what_the_loss_assigns(name, monkeypatch):
    model = build(name).eval()
    size_hw = (96, 144)
    ground_truths = [crowd(seed, size_hw) for seed in range(3)]
    targets = Targets.of(ground_truths)
    owners = []

    def spied(module, word):
        original = getattr(module, word)

        def call(*arguments, **options):
            result = original(*arguments, **options)
            owners.append(result.owner)
            return result

        monkeypatch.setattr(module, word, call)

    spied(fcos, "assign_locations")
    spied(retinanet, "match_boxes")
    spied(proposal_network, "match_boxes")
    images = ImageBatch.of([torch.zeros(3, *size_hw, dtype=torch.uint8)] * 3, [size_hw] * 3, [(1.0, 1.0)] * 3,
                           [(0.0, 0.0)] * 3)  # fmt: skip
    inner = getattr(model, "detector", model)
    outputs = inner(images, targets)
    inner.loss(outputs, targets)
    owner = owners[0]
    expected = [[bool((owner[row] == index).any()) for index in range(14)] for row in range(3)]
    found = claimed(held_detector(model.config), size_hw, targets)
    assert found.tolist() == expected
    assert 0 < found.sum() < found.numel()


def test_every_object_is_a_proposal_of_fast_rcnn():
    assert held_detector(build("fast_rcnn").config) is None


@pytest.mark.parametrize("name", ["improved", "retinanet", "rpn", "two_stage_course"])
def test_other_settings_are_configs_that_can_be_built(name):
    config = held_detector(build(name).config)
    for words, changed in others(config):
        assert changed != config
        assert words.startswith("model.")
        type(changed)(**{field: getattr(changed, field) for field in type(changed).__dataclass_fields__})


def test_an_anchor_threshold_decides_where_low_quality_matches_are_off():
    config = held_detector(build("two_stage_course").config)
    thin = Targets.of([GroundTruth.of([[10.0, 10, 110, 12]], [0])])
    assert not config.rpn.low_quality
    assert not claimed(config, (128, 128), thin).any()
    assert claimed(replace(config, rpn=replace(config.rpn, low_quality=True)), (128, 128), thin).all()
