"""Detections with a semantic map and a panoptic one: checked, selected, merged."""

import pytest
import torch

from boxwright.structures import (
    Classes,
    CroppedMask,
    Detections,
    Panoptic,
    PanopticSegment,
    PanopticSettings,
)
from boxwright.structures.panoptic import merge_panoptic

CLASSES = Classes(("cat", "dog"), (1, 2), stuff=("sky", "road"))


def merged():
    masks = [CroppedMask(x, 0, torch.ones(2, 2, dtype=torch.bool)) for x in (0, 2)]
    semantic = torch.full((2, 6), 2, dtype=torch.uint8)
    scores, labels = torch.tensor([0.9, 0.6]), torch.tensor([1, 0])
    panoptic = merge_panoptic(masks, scores, labels, semantic, PanopticSettings(min_stuff_area=4))
    boxes = torch.tensor([[0.0, 0, 2, 2], [2, 0, 4, 2]])
    return Detections(boxes, scores, labels, (2, 6), CLASSES, tuple(masks), semantic=semantic, panoptic=panoptic)


def test_labels_of_things_count_names_and_those_of_stuff_count_stuff():
    things, stuff = merged().panoptic.segments[:2], merged().panoptic.segments[2]
    assert [CLASSES.names[one.label] for one in things] == ["dog", "cat"]
    assert (CLASSES.stuff[stuff.label], stuff.area, stuff.score, stuff.row) == ("road", 4, None, None)
    assert merged().panoptic.map.tolist() == [[1, 1, 2, 2, 3, 3]] * 2


def test_selected_detections_keep_both_maps_and_the_segments_know_their_new_rows():
    one = merged()[1:]
    assert [segment.row for segment in one.panoptic.segments] == [None, 0, None]
    assert torch.equal(one.panoptic.map, merged().panoptic.map)
    assert torch.equal(one.semantic, merged().semantic)
    assert [segment.row for segment in merged().select(torch.tensor([1, 0])).panoptic.segments] == [1, 0, None]


def test_maps_of_another_size_than_the_image_are_refused():
    empty = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"semantic: expected \(4, 5\), got \(5, 4\)"):
        Detections(*empty, (4, 5), semantic=torch.zeros(5, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"panoptic: expected \(4, 5\), got \(5, 4\)"):
        Detections(*empty, (4, 5), panoptic=Panoptic(torch.zeros(5, 4, dtype=torch.int32), ()))


def test_segments_with_one_id_and_maps_of_another_type_are_refused():
    segment = PanopticSegment(1, 0, True, 0.5, 0, 3)
    with pytest.raises(ValueError, match=r"expected different ids from 1 on, got \[1, 1\]"):
        Panoptic(torch.zeros(2, 2, dtype=torch.int32), (segment, segment))
    with pytest.raises(ValueError, match=r"expected \(H, W\) int32"):
        Panoptic(torch.zeros(2, 2), ())


@pytest.mark.parametrize(("name", "value"), [("min_score", 1.5), ("max_overlap", -0.1), ("min_stuff_area", -1)])
def test_settings_of_the_merge_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        PanopticSettings(**{name: value})
