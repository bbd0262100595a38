"""The recorded cases of Detectron2's semantic and panoptic models: logits, labels, masks, merged maps and segments."""

from dataclasses import replace

import pytest
import torch

from boxwright.convert.export import export_state
from boxwright.convert.files import convert_state
from boxwright.recipes import dump_recipe
from boxwright.structures import ImageBatch
from boxwright.weights.backbone_files import read_tensors, state_of

CASES = ["detectron2/semantic_fpn", "detectron2/panoptic_fpn"]


def detected(case, prefix):
    if prefix == "resized_":
        images = replace(ImageBatch.of(case.images[:1]), original_hw=torch.tensor([[240, 320]]))
        images = replace(images, scale_xy=torch.tensor([[192 / 240, 256 / 320]]).flip(1))
        with torch.no_grad():
            return case.model.detect(case.model(images), images, case.converted.recipe.detect.settings())
    return [case.detect([image])[0] for image in case.images] if prefix else case.detect(case.images)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_recorded_ones(case_of, name):
    case = case_of(name)
    images = ImageBatch.of(case.images)
    with torch.no_grad():
        found = case.model.detect_padded(case.model(images), case.converted.recipe.detect.settings()).semantic
    torch.testing.assert_close(found, case.arrays["sem_seg_logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "single_", "resized_"])
@pytest.mark.parametrize("name", CASES)
def test_labels_are_the_recorded_ones(case_of, name, prefix):
    """But for pixels whose two highest logits are within a rounding error: fewer than one in a thousand."""
    case = case_of(name)
    for k, one in enumerate(detected(case, prefix)):
        expected = case.arrays[f"{prefix}sem_seg{k}"]
        assert one.semantic.shape == expected.shape
        assert (one.semantic != expected).float().mean() < 1e-3
        assert len(expected.unique()) > 5


@pytest.mark.parametrize("prefix", ["", "single_", "resized_"])
def test_panoptic_maps_and_segments_are_the_recorded_ones(case_of, prefix):
    case = case_of("detectron2/panoptic_fpn")
    for k, one in enumerate(detected(case, prefix)):
        wanted = case.settings[f"{prefix}segments_info{k}"]
        found = one.panoptic.segments
        assert [segment.id for segment in found] == [row["id"] for row in wanted]
        assert [segment.thing for segment in found] == [row["isthing"] for row in wanted]
        for segment, row in zip(found, wanted, strict=True):
            if segment.thing:
                assert (segment.label, segment.row) == (row["category_id"], row["instance_id"])
                assert segment.score == pytest.approx(row["score"], abs=1e-5)
            else:
                assert (segment.label, segment.score, segment.row) == (row["category_id"] - 1, None, None)
                assert segment.area == pytest.approx(row["area"], rel=1e-3)
            assert segment.area == int(one.panoptic.mask(segment.id).sum())
        expected = case.arrays[f"{prefix}panoptic{k}"]
        assert (one.panoptic.map != expected).float().mean() < 1e-3


@pytest.mark.parametrize("name", CASES)
def test_class_names_are_those_of_coco_panoptic(case_of, name):
    classes = case_of(name).converted.classes
    assert len(classes.semantic_names) == 54
    assert classes.semantic_names[:2] == ("things", "banner")
    assert len(classes.names) == (80 if "panoptic" in name else 0)


@pytest.mark.parametrize("name", CASES)
def test_a_file_goes_back_as_it_came(case_of, name):
    case = case_of(name)
    state = state_of(read_tensors(case.path))
    found = convert_state(state, "x")
    back = export_state(dump_recipe(found.recipe)["model"], len(found.classes), found.weights, "detectron2",
                        found.origin["kept"])  # fmt: skip
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in back)


def test_a_semantic_head_of_another_kind_is_refused(case_of):
    state = dict(state_of(read_tensors(case_of("detectron2/semantic_fpn").path)))
    state["sem_seg_head.decoder.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"unused: sem_seg_head\.decoder\.weight"):
        convert_state(state, "x")
