"""Class weights: rows that learn an object of a class count so often in the classification loss, others as ever."""

import pytest
import torch
from tiny_detectors import BOXES, TINY, build, detects, forward, image, is_one_class

from boxwright.models.class_weights import weigh_classes, weights_by_name
from boxwright.ops.losses import label_weights
from boxwright.recipes import load_recipe
from boxwright.structures import ImageBatch, Targets

WEIGHED = [name for name in TINY if detects(build(name)) and not is_one_class(build(name))]
IMAGES = ImageBatch.of([image(1), image(2)])
TARGETS = Targets.of([BOXES["one"], BOXES["two"]])  # of classes 1, 0 and 2


def losses(name, weights=None):
    model = build(name).train()
    if weights is not None:
        weigh_classes(model, weights)
    return {key: value.item() for key, value in model.loss(forward(model, IMAGES, TARGETS), TARGETS).items()}


@pytest.mark.parametrize("name", WEIGHED)
def test_the_classification_loss_is_linear_in_the_weights_and_no_other_knows_them(name):
    plain, even = losses(name), losses(name, (1.0, 1.0, 1.0))
    assert even == pytest.approx(plain, rel=1e-6)
    steps = [losses(name, tuple(3.0 if k == one else 1.0 for k in range(3))) for one in range(3)]
    key = next(key for key in plain if key.endswith("classification"))
    gains = [step[key] - plain[key] for step in steps]
    assert min(gains) > 0  # each class has an object
    together = losses(name, (3.0, 3.0, 3.0))
    assert together[key] - plain[key] == pytest.approx(sum(gains), rel=1e-3)
    for step in (*steps, together):
        assert {k: v for k, v in step.items() if k != key} == pytest.approx(
            {k: v for k, v in plain.items() if k != key}, rel=1e-6
        )


def test_a_detector_without_classes_a_wrong_number_and_names_are_refused():
    with pytest.raises(ValueError, match="rpn tells no classes apart"):
        weigh_classes(build("rpn"), (1.0,))
    with pytest.raises(ValueError, match="semantic_fpn tells no classes apart"):
        weigh_classes(build("semantic_fpn"), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="expected 3, one for each class, got 2"):
        weigh_classes(build("improved"), (1.0, 2.0))
    with pytest.raises(ValueError, match="expected numbers in the order of classes, got balanced"):
        load_recipe("fcos", ["class_weights=balanced"]).build_model(3)
    with pytest.raises(ValueError, match="no class 'car'; there are a, b"):
        weights_by_name({"car": 2.0}, ["a", "b"])


def test_weights_belong_to_training_and_to_no_state_dict():
    model = build("improved")
    before = set(model.state_dict())
    weigh_classes(model, (1.0, 2.0, 3.0))
    assert set(model.state_dict()) == before
    recipe = load_recipe("fcos", ["class_weights=[1, 2]"])
    assert recipe.build_model(2).class_weights.tolist() == [1.0, 2.0]


def test_background_weighs_1():
    assert label_weights(torch.tensor([[-1, 1]]), torch.tensor([5.0, 7.0])).tolist() == [[1.0, 7.0]]
