"""Rows of YOLO labels: polygons and poses told apart, and what only looks like a polygon refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.data.formats.yolo_rows import _TOLERANCE, Row, RowKind, box_or_outline, kind_of, read_label_file

BOX = "0 0.5 0.5 0.2 0.4"
fraction = st.floats(0.05, 0.95)


def read(tmp_path: Path, *lines: str, pose: int | None = None) -> tuple[RowKind, list[tuple[float, ...] | str]]:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines))
    rows, problems = read_label_file(path)
    assert problems == []
    kind = kind_of(rows, pose)
    return kind, [box_or_outline(row, kind) for row in rows]


@pytest.mark.parametrize("score", ["0.93", "1", "0", "17"])
def test_six_numbers_are_refused_with_the_reason(tmp_path: Path, score: str) -> None:
    _, (plain, told) = read(tmp_path, BOX, f"{BOX} {score}")
    assert plain == (0.5, 0.5, 0.2, 0.4)
    assert "remove a score or a track id" in str(told)


@pytest.mark.parametrize("extra", ["0.9 1", "0.9 0", "0.9 17", "1 0.8", "0.8 0.7", "3 0.9"])
@pytest.mark.parametrize("beside", [(), (BOX,)])
def test_a_box_with_a_score_and_a_track_id_is_never_a_triangle(
    tmp_path: Path, extra: str, beside: tuple[str, ...]
) -> None:
    boxes = ["0 0.5 0.5 0.2 0.4", "1 0.3 0.2 0.5 0.3", "0 0.8 0.75 0.4 0.5"]
    _, told = read(tmp_path, *beside, *(f"{box} {extra}" for box in boxes))
    assert all("7 numbers" in str(reason) and "track id" in str(reason) for reason in told[len(beside) :])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(fraction, fraction, fraction, fraction, fraction, st.integers(0, 1)), min_size=1, max_size=20)
)
def test_tracker_rows_inside_their_image_are_never_polygons(rows: list[tuple[float, ...]]) -> None:
    clipped = [(x, y, min(w, 2 * x, 2 - 2 * x), min(h, 2 * y, 2 - 2 * y), s, float(i)) for x, y, w, h, s, i in rows]
    kind = kind_of([Row(n, 0, values) for n, values in enumerate(clipped)], None)
    assert not kind.polygons


def test_a_triangle_is_read_where_it_cannot_be_a_box_or_others_are_polygons(tmp_path: Path) -> None:
    _, read_alone = read(tmp_path, "0 0.1 0.2 0.5 0.2 0.5 0.8")  # as a box it would leave the image
    assert read_alone == [(0.1, 0.2, 0.5, 0.2, 0.5, 0.8)]
    fitting = "0 0.5 0.5 0.2 0.4 0.9 0.3"
    _, (triangle, _) = read(tmp_path, fitting, "0 0.1 0.1 0.5 0.2 0.5 0.8 0.2 0.7")
    assert triangle == (0.5, 0.5, 0.2, 0.4, 0.9, 0.3)


def pose(x: float, y: float, points: int, per_point: int, visible: int = 2) -> str:
    rest = []
    for n in range(points):
        rest += [f"{x + 0.01 * n:.4f}", f"{y - 0.01 * n:.4f}", *([str(visible)] if per_point == 3 else [])]
    return f"0 {x} {y} 0.2 0.3 {' '.join(rest)}"


@pytest.mark.parametrize("points", [1, 2, 4, 5, 17])
@pytest.mark.parametrize("per_point", [2, 3])
@pytest.mark.parametrize("visible", [0, 1, 2])
def test_poses_without_a_yaml_are_refused_and_never_polygons(
    tmp_path: Path, points: int, per_point: int, visible: int
) -> None:
    rows = [pose(x, y, points, per_point, visible) for x, y in ((0.3, 0.4), (0.5, 0.6), (0.7, 0.31), (0.45, 0.8))]
    kind, told = read(tmp_path, *rows)
    assert not kind.polygons
    assert all(isinstance(reason, str) for reason in told)
    if points > 1:
        assert f"kpt_shape: [{points}, {per_point}]" in str(told[0])
        _, boxes = read(tmp_path, *rows, BOX, pose=points * per_point)
        assert boxes[0] == (0.3, 0.4, 0.2, 0.3)
        assert boxes[-1] == (0.5, 0.5, 0.2, 0.4)


def test_a_pose_of_another_length_than_the_yaml_says_is_refused(tmp_path: Path) -> None:
    _, (told,) = read(tmp_path, pose(0.3, 0.4, 3, 2), pose=8)
    assert "expected 13: class cx cy w h and the keypoints of kpt_shape" in str(told)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)), min_size=6, max_size=6), st.integers(0, 2**31))
def test_outlines_of_one_length_are_polygons(centres: list[tuple[float, float]], seed: int) -> None:
    """Six quadrilaterals, as a set of boxes drawn as polygons has them: corners from the upper left one on."""
    rows = []
    for n, (x, y) in enumerate(centres):
        half = 0.03 + (seed >> n) % 7 / 100
        corners = (x - half, y - half, x + half, y - half + 1e-4, x + half, y + half, x - half, y + half)
        rows.append(Row(n, 0, tuple(round(value, 6) for value in corners)))
    # read as centre and size, some box would begin further outside the image than labelling tools round
    if any(row.values[axis] - row.values[axis + 2] / 2 < -_TOLERANCE - 1e-6 for row in rows for axis in (0, 1)):
        assert kind_of(rows, None).polygons


def test_rectangles_as_polygons_are_polygons(tmp_path: Path) -> None:
    kind, _ = read(tmp_path, "0 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6")
    assert kind.polygons


@pytest.mark.parametrize(
    ("word", "why"), [("1_0", "'1_0' is not a number"), ("٣", "is not a number"), ("0x1", "'0x1'")]
)
def test_a_number_is_what_other_readers_take_for_one(tmp_path: Path, word: str, why: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"{word} 0.5 0.5 0.2 0.4\n1.0 0.5 0.5 0.2 0.4\n", encoding="utf-8")
    rows, (problem,) = read_label_file(path)
    assert why in problem.message
    assert [(row.line, row.index) for row in rows] == [(2, 1)]
