"""Lines and zones: each object once in each direction, whatever its box does on the border."""

import pytest
import torch

from boxwright.inference.crossings import line_of, zone_of
from boxwright.structures import Classes, Detections

CLASSES = Classes.named(["car", "bus"])
SQUARE = "20,20,60,20,60,60,20,60"


def walk(border, *ways, side=10, label=0):
    """Objects 1, 2, ... walk along ways of (x, y), None where they are not seen."""
    for step in range(max(map(len, ways))):
        seen = [(key, way[step]) for key, way in enumerate(ways, 1) if step < len(way) and way[step] is not None]
        boxes = [[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for _, (x, y) in seen]
        labels = torch.full((len(seen),), label)
        found = Detections(torch.tensor(boxes).reshape(-1, 4), torch.ones(len(seen)), labels, (100, 100), CLASSES)
        border.update(found, [key for key, _ in seen])
    return dict(border.entered), dict(border.left)


def test_down_across_a_line_from_left_to_right_is_in_and_up_is_out():
    assert walk(line_of("10,50,90,50"), [(50, 40), (50, 60)]) == ({"car": 1}, {})
    assert walk(line_of("10,50,90,50"), [(50, 60), (50, 40)], [(20, 60), (20, 40)], label=1) == ({}, {"bus": 2})


def test_the_other_order_of_points_is_the_other_direction():
    assert walk(line_of("90,50,10,50"), [(50, 40), (50, 60)]) == ({}, {"car": 1})


def test_a_way_around_the_end_of_a_line_is_not_counted():
    assert walk(line_of("10,50,90,50"), [(95, 40), (95, 60)], [(5, 60), (5, 40)]) == ({}, {})


def test_a_box_that_trembles_on_the_line_is_counted_once():
    trembling = [(50, 40), *((50, 50 + d) for d in (0.4, -0.3, 0.9, -0.9, 0.2)), (50, 60)]
    assert walk(line_of("10,50,90,50"), trembling) == ({"car": 1}, {})
    turned = [*trembling[:-1], (50, 40)]
    assert walk(line_of("10,50,90,50"), turned) == ({}, {})


def test_an_object_that_is_not_seen_on_the_line_is_counted_behind_it():
    assert walk(line_of("10,50,90,50"), [(50, 40), None, None, None, None, (50, 60)]) == ({"car": 1}, {})


def test_a_zone_counts_what_comes_and_goes_and_not_what_was_there():
    assert walk(zone_of(SQUARE), [(5, 40), (40, 40), (95, 40)]) == ({"car": 1}, {"car": 1})
    assert walk(zone_of(SQUARE), [(40, 40), (41, 40)], [(5, 5), (6, 5)]) == ({}, {})
    assert walk(zone_of(SQUARE), [(40, 40), (40, 95)]) == ({}, {"car": 1})


def test_a_notch_of_a_zone_is_outside():
    zone = zone_of("0,0,90,0,90,90,45,20,0,90")  # open at the bottom
    assert [zone.holds(point) for point in ((45, 10), (45, 60), (5, 60), (85, 60))] == [True, False, True, True]


@pytest.mark.parametrize(
    ("make", "text", "message"),
    [
        (line_of, "1,2,3", "--line: expected x1,y1,x2,y2"),
        (line_of, "1,2,x,4", "--line: expected x1,y1,x2,y2"),
        (line_of, "1,2,1,2", "two different points"),
        (line_of, "1,2,nan,4", "--line: expected"),
        (zone_of, "1,2,3,4", "three points or more in pixels, got 2 points"),
        (zone_of, "1,2,3,4,5", "three points or more"),
        (zone_of, "0,0,10,10,20,20", "enclose an area"),
    ],
)
def test_what_is_no_line_or_zone_is_refused_in_a_sentence(make, text, message):
    with pytest.raises(ValueError, match=message):
        make(text)


def test_a_border_outside_of_the_frame_is_refused():
    line_of("-10,50,500,50").check((100, 100))
    with pytest.raises(ValueError, match=r"--line 0,150,50,150: expected points within the frame of 100 x 100 pixels"):
        line_of("0,150,50,150").check((100, 100))
